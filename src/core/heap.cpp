#include "core/heap.hpp"

#include <cstdlib>
#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace longlora {

void keep_freed_memory() {
#ifdef __GLIBC__
    constexpr int kept_bytes = 64 << 20;    // at the end of the heap
    constexpr int mapped_bytes = 32 << 20;  // larger blocks come from the system and go back to it
    mallopt(M_TRIM_THRESHOLD, kept_bytes);
    mallopt(M_MMAP_THRESHOLD, mapped_bytes);
#endif
}

}  // namespace longlora
