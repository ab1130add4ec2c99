/* What Linux' control groups allow this process: for whoever needs to know of a resource. */
#ifndef XENT_CONTROL_GROUPS_H
#define XENT_CONTROL_GROUPS_H

#include <stdio.h>
#include <string.h>

/* The least of the limits from this process's group up to the root, in either version of the control groups; 0: none.
 * `limit_of` reads that of one folder, 0 if it has none. */
static double xent_tightest_group(const char *controller, double (*limit_of)(const char *folder, int v2)) {
    double least = 0;
    FILE *f = fopen("/proc/self/cgroup", "r");
    if (!f)
        return 0;
    char line[4200];
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':'), *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = 0;
        ++controllers;
        const int v2 = !*controllers;
        if (!v2 && !strstr(controllers, controller))
            continue;
        for (;;) {
            char folder[4300];
            snprintf(folder, sizeof folder, "/sys/fs/cgroup%s%s%s", v2 ? "" : "/", v2 ? "" : controller, path);
            const double limit = limit_of(folder, v2);
            if (limit > 0 && (least == 0 || limit < least))
                least = limit;
            char *slash = strrchr(path, '/');
            if (!slash)
                break;
            *slash = 0;
        }
    }
    fclose(f);
    return least;
}

#endif
