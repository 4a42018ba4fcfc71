"""The media types that bodies and answers have, and what each is for."""

JSON = "application/json"
SAFETENSORS = "application/x-safetensors"
OCTETS = "application/octet-stream"
NDJSON = "application/x-ndjson"
CSV = "text/csv"
PNG = "image/png"
SVG = "image/svg+xml"

ENCODINGS = {
    JSON: "Tensors as nested lists, flat data with a shape, or base64; NaN and infinity are null.",
    SAFETENSORS: "Tensors by name in a safetensors file, the rest as JSON in its metadata "
    "(request, response); exact, and the only way in for large tensors and for groups.",
    OCTETS: "Open Inference Protocol (/v2): a JSON document, then the bytes of its tensors; any "
    "Content-Type is taken there, compressed with gzip or deflate or not.",
    NDJSON: "Answers of sweeps: a line of JSON for each row as it is done, with the progress.",
    CSV: "Answers of sweeps: a line for each row; undefined figures are empty.",
    PNG: "Pictures of attention, sweeps and comparisons, at most 2400 pixels wide and high.",
    SVG: "The same as vector graphics, whose text can be searched.",
}
PICTURES = (PNG, SVG)
