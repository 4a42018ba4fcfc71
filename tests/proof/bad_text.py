"""Bodies that are no JSON object, or one that nobody means."""

import gzip
import json

from tests.proof.originals import COMPARISONS, ESTIMATE, SOFTMAX, SWEEPS
from tests.proof.rows import CANARY, INVALID, LIMIT, MALFORMED, Row, row

SAID = f'{{"tensor_format":"{CANARY}"}}'
NOT_JSON = {
    "an open brace": b"{",
    "words": CANARY.encode(),
    "a form": f"query={CANARY}&key=1".encode(),
    "single quotes": b"{'mask': {}}",
    "no quotes": b"{mask: {}}",
    "a comma too many": b'{"mask":{},}',
    "a comma too few": b'{"mask":{} "labels":{}}',
    "no colon": b'{"mask" {}}',
    "a comment": b'{"mask":{} /* none */}',
    "two documents": b"{}{}",
    "a tail": b"{} x",
    "a cut string": SAID[:30].encode(),
    "a cut number": b'{"inputs":{"kind":"seeded","std":1.',
    "a cut escape": b'{"tensor_format":"\\u00',
    "a cut literal": b'{"ignore_unknown":tru',
    "a wrong escape": b'{"tensor_format":"\\x41"}',
    "a bare newline": b'{"tensor_format":"a\nb"}',
    "a bare NUL": b'{"tensor_format":"\x00"}',
    "only NUL": b"\x00",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16 with its mark": SAID.encode("utf-16"),
    "UTF-16, little-endian": SAID.encode("utf-16-le"),
    "UTF-16, big-endian": SAID.encode("utf-16-be"),
    "UTF-32": SAID.encode("utf-32"),
    "Latin-1": '{"tensor_format":"é"}'.encode("latin-1"),
    "overlong UTF-8": b'{"tensor_format":"\xc0\xaf"}',
    "a cut character": b'{"tensor_format":"\xe7\x8c"}',
    "beyond Unicode": b'{"tensor_format":"\xf5\x80\x80\x80"}',
    "a lone surrogate": b'{"tensor_format":"\\ud800"}',
    "surrogates reversed": b'{"tensor_format":"\\udc00\\ud800"}',
    "a surrogate's bytes": b'{"tensor_format":"\xed\xa0\x80"}',
    "a lone surrogate for a name": b'{"\\udfff":1}',
    "NaN": b'{"mechanism":{"scale":NaN}}',
    "Infinity": b'{"mechanism":{"scale":Infinity}}',
    "-Infinity": b'{"mechanism":{"scale":-Infinity}}',
    "nan": b'{"mechanism":{"scale":nan}}',
    "1e999": b'{"mechanism":{"scale":1e999}}',
    "-1e999": b'{"mechanism":{"scale":-1e999}}',
    "400 digits": b'{"inputs":{"kind":"seeded","seed":%s}}' % (b"1" * 400),
    "hexadecimal": b'{"inputs":{"kind":"seeded","seed":0x10}}',
    "a leading zero": b'{"inputs":{"kind":"seeded","seed":01}}',
    "a plus": b'{"inputs":{"kind":"seeded","seed":+1}}',
    "a bare point": b'{"mechanism":{"scale":.5}}',
    "a point at the end": b'{"mechanism":{"scale":1.}}',
    "an underscore": b'{"inputs":{"kind":"seeded","seed":1_000}}',
    "a key twice": b'{"mask":{},"mask":{}}',
    "a key twice, once escaped": b'{"mask":{},"\\u006dask":{}}',
    "a key twice, deeper": b'{"mask":{"causal":"none","causal":"none"}}',
    "a key twice, in a list": b'{"include":[{"name":"output","name":"weights"}]}',
    "the empty key twice": b'{"":1,"":1}',
    "a key 100,000 times": b"{%s}" % b",".join([b'"a":1'] * 100_000),
    "lists without end": b"[" * 100_000,
    "objects without end": b'{"a":' * 100_000,
    "lists in a field": b'{"include":%s%s}' % (b"[" * 2000, b"]" * 2000),
    "gzip": gzip.compress(b"{}", mtime=0),
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(20),
    "a list": b"[]",
    "a list of requests": b"[{},{}]",
    "null": b"null",
    "true": b"true",
    "a number": b"3",
    "a string": json.dumps(CANARY).encode(),
}
NESTED: dict[str, object] = {}
for _ in range(40):
    NESTED = {"mask": NESTED}
EVERYWHERE = [
    "words",
    "a cut string",
    "NaN",
    "a key twice",
    "objects without end",
    "a list",
    "gzip",
]
ODD = {
    "65 fields": ({f"f{i}": 0 for i in range(65)}, INVALID),
    "65 fields, deeper": ({"mask": {f"f{i}": 0 for i in range(65)}}, INVALID),
    "65 fields in a list": ({"include": [{f"f{i}": 0 for i in range(65)}]}, INVALID),
    "30 unknown fields": ({"mechanism": {f"f{i}": CANARY for i in range(30)}}, INVALID),
    "a long name": ({"x" * 5000: 1}, INVALID),
    "names of control characters": ({f"\x01\x1b\u202e{i}" * 20: 1 for i in range(40)}, INVALID),
    "names of emoji": ({"😀" * 60 + str(i): 1 for i in range(40)}, INVALID),
    "names of quotes": ({'"\\' * 40 + str(i): 1 for i in range(40)}, INVALID),
    "names of slashes": ({"/~" * 30 + str(i): 1 for i in range(40)}, INVALID),
    "40 levels": (NESTED, LIMIT),
    "40 levels of lists": (json.loads(f'{{"include":{"[" * 40}{"]" * 40}}}'), LIMIT),
    "a million values": (b'{"include":[%s]}' % b",".join([b"0"] * (2**20 + 1)), LIMIT),
    "one byte too many": (b"{}" + b" " * (4_718_592 - 1), LIMIT),
    "300,000 objects": (b'{"a":[%s]}' % b",".join([b'{"a":{}}'] * 300_000), INVALID),
    "400,000 objects": (b'{"a":[%s]}' % b",".join([b'{"a":{}}'] * 400_000), LIMIT),
    "a string of 4 MB": ({"tensor_format": CANARY * 160_000}, INVALID),
    "a number of a million digits": (b'{"a":0.%s}' % (b"3" * 1_000_000), INVALID),
}  # fmt: skip
ROWS: list[Row] = [
    *(row(name, content, MALFORMED) for name, content in NOT_JSON.items()),
    *(row(name, content, slug) for name, (content, slug) in ODD.items()),
    *(
        row(name, NOT_JSON[name], MALFORMED, path=path)
        for path in (ESTIMATE, SOFTMAX, SWEEPS, COMPARISONS)
        for name in EVERYWHERE
    ),
    row("nothing", b"", INVALID, path=SOFTMAX),
]
