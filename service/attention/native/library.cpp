// What Python calls. One of several passes computes, each compiled for another instruction set.
#include "job.h"
#include "json.h"

#include <cstring>
#include <exception>

namespace attention {

using Reader = int64_t(const char*, int64_t, int64_t, Found*, int64_t, double*, int64_t);

#if defined(__x86_64__)
int64_t with_avx512(Job&, int64_t units, int64_t most);
int64_t with_avx512(Revisit&, Cursor&, int64_t most);
void summary_avx512(const Summary&);
Reader arrays_avx512;
int64_t with_avx2(Job&, int64_t units, int64_t most);
int64_t with_avx2(Revisit&, Cursor&, int64_t most);
void summary_avx2(const Summary&);
Reader arrays_avx2;
#endif
int64_t with_baseline(Job&, int64_t units, int64_t most);
int64_t with_baseline(Revisit&, Cursor&, int64_t most);
void summary_baseline(const Summary&);
Reader arrays_baseline;

namespace {

struct Variant {
  const char* name;
  int64_t (*pass)(Job&, int64_t, int64_t);
  int64_t (*revisit)(Revisit&, Cursor&, int64_t);
  void (*summary)(const Summary&);
  Reader* arrays;
  bool (*runs)();
};

// The widest first.
const Variant variants[] = {
#if defined(__x86_64__)
    {"avx512", with_avx512, with_avx512, summary_avx512, arrays_avx512,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
     }},
    {"avx2", with_avx2, with_avx2, summary_avx2, arrays_avx2,
     [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
#endif
    {"baseline", with_baseline, with_baseline, summary_baseline, arrays_baseline, [] { return true; }},
};
const Variant* chosen = nullptr;

}  // namespace
}  // namespace attention

#define EXPORTED __attribute__((visibility("default")))

extern "C" {

// Chooses the instruction set by name, or the widest this processor has; its name, or null where
// there is none.
EXPORTED const char* attention_use(const char* name) {
  for (const auto& variant : attention::variants)
    if (variant.runs() && (name == nullptr || std::strcmp(name, variant.name) == 0)) {
      attention::chosen = &variant;
      return variant.name;
    }
  return nullptr;
}

EXPORTED void attention_products(void* singles, void* doubles) {
  attention::use_products(singles, doubles);
}

// Computes at most so many units of the job; 1 where some may be left, 0 where none is, -1 where
// memory ran out.
EXPORTED int64_t attention_pass(attention::Job* job, int64_t units, int64_t most) {
  try {
    return attention::chosen->pass(*job, units, most);
  } catch (const std::exception&) {
    return -1;
  }
}

// Looks again at so many blocks of queries, from the cursor on; the same answers.
EXPORTED int64_t attention_revisit(attention::Revisit* asked, attention::Cursor* at,
                                   int64_t most) {
  try {
    return attention::chosen->revisit(*asked, *at, most);
  } catch (const std::exception&) {
    return -1;
  }
}

EXPORTED int64_t attention_revisit_bytes() { return sizeof(attention::Revisit); }

EXPORTED void attention_summary(const attention::Summary* job) {
  attention::chosen->summary(*job);
}

// Arrays of at least `least` numbers in JSON text, the first `most` of them; how many.
EXPORTED int64_t attention_arrays(const char* body, int64_t size, int64_t least,
                                  attention::Found* found, int64_t most, double* numbers,
                                  int64_t room) {
  return attention::chosen->arrays(body, size, least, found, most, numbers, room);
}

EXPORTED int64_t attention_summary_bytes() { return sizeof(attention::Summary); }

EXPORTED const char* attention_sources() { return SOURCES; }

EXPORTED int64_t attention_job_bytes() { return sizeof(attention::Job); }
}
