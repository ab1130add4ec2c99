/* Whole pages of memory, and pages that may not be touched, on any system; where memory has no pages, nothing is closed. */
#ifndef XENT_NATIVE_PAGES_H
#define XENT_NATIVE_PAGES_H

#include <stddef.h>
#include <stdlib.h>

#if defined(_WIN32)
#include <windows.h>
#undef IN
#undef OUT

static inline size_t page_bytes(void) {
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return info.dwPageSize;
}
static inline char *new_pages(size_t bytes) { return VirtualAlloc(NULL, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE); }
static inline void drop_pages(char *at, size_t bytes) { (void)bytes, VirtualFree(at, 0, MEM_RELEASE); }
static inline int close_pages(char *at, size_t bytes) {
    DWORD before;
    return VirtualProtect(at, bytes, PAGE_NOACCESS, &before) != 0;
}
#elif defined(__wasm__)
static inline size_t page_bytes(void) { return 4096; }
static inline char *new_pages(size_t bytes) { return aligned_alloc(4096, bytes); }
static inline void drop_pages(char *at, size_t bytes) { (void)bytes, free(at); }
static inline int close_pages(char *at, size_t bytes) { return (void)at, (void)bytes, 1; }
#else
#include <sys/mman.h>
#include <unistd.h>

static inline size_t page_bytes(void) { return (size_t)sysconf(_SC_PAGESIZE); }
static inline char *new_pages(size_t bytes) {
    char *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}
static inline void drop_pages(char *at, size_t bytes) { munmap(at, bytes); }
static inline int close_pages(char *at, size_t bytes) { return mprotect(at, bytes, PROT_NONE) == 0; }
#endif

#endif
