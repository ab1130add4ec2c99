/* `quota ROOT`: the CPUs that control groups allow, and the threads chosen, were the files of the system those below ROOT.
 */
#define _GNU_SOURCE
#include <stdio.h>

static const char *root;

static FILE *open_below_root(const char *path, const char *mode) {
    char below[8192];
    snprintf(below, sizeof below, "%s%s", root, path);
    return fopen(below, mode);
}

#define fopen open_below_root
#include "../../csrc/threads.c"

int main(int argc, char **argv) {
    if (argc != 2)
        return 2;
    root = argv[1];
    printf("%g %d\n", cgroup_quota(), usable());
    return 0;
}
