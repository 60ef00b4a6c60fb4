/* The questions that the doctor asks of libnvidia-ml, answered for one GPU of 24 GiB. */
#include <string.h>
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned pid; unsigned long long used; unsigned gi, ci; } process_t;
#ifndef CODE
#define CODE 0
#endif
int nvmlInit_v2(void) { return CODE; }
const char *nvmlErrorString(int code) { return code == 9 ? "Driver Not Loaded" : "other"; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **handle) { *handle = (void *)8; return i != 0; }
int nvmlDeviceGetName(void *h, char *name, unsigned size) { strncpy(name, "Test GPU", size); return h == 0; }
int nvmlDeviceGetMemoryInfo(void *h, memory_t *m) {
  m->total = 24ull << 30; m->used = 5ull << 30; m->free = m->total - m->used; return h == 0;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *h, unsigned *count, process_t *found) {
  if (!found || *count < 2) { *count = 2; return 7; } /* insufficient size */
  *count = 2;
  found[0].pid = PID; found[0].used = 3ull << 30;
  found[1].pid = 999999; found[1].used = ~0ull; /* not told */
  return h == 0;
}
