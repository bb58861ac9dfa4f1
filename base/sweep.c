/* What killed processes left behind. */
#include "base/fs.h"

#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum { QUIET = 3600 }; /* seconds */

/* PID of "NAME...tmp.PID" or "NAME...tmp.PID.MORE"; 0: the name is not of that kind. */
static long writer_of(const char *entry, const char *name)
{
    static const char mark[] = ".tmp.";
    if (!str_starts(entry, name)) return 0;
    const char *at = strstr(entry + strlen(name), mark);
    if (!at || !isdigit((unsigned char)at[strlen(mark)])) return 0;
    char *end;
    long pid = strtol(at + strlen(mark), &end, 10);
    return *end == '\0' || *end == '.' ? pid : 0;
}

/* Of a file, or of a folder and what lies in it. */
static time_t last_change(const char *path)
{
    struct stat st;
    char **names;
    int n;
    if (lstat(path, &st) != 0) return 0;
    time_t last = st.st_mtime;
    if (!S_ISDIR(st.st_mode) || dir_list(&names, &n, path, NULL) != OK) return last;
    for (int i = 0; i < n; i++) {
        char *child = path_join(path, names[i]);
        time_t t = last_change(child);
        if (t > last) last = t;
        free(child);
    }
    dir_list_free(names, n);
    return last;
}

static bool is_left_over(const char *path, long pid)
{
    bool dead = pid > 0 && kill((pid_t)pid, 0) != 0 && errno == ESRCH;
    return dead && last_change(path) < time(NULL) - QUIET;
}

void dir_sweep(const char *path, const char *name)
{
    char **names;
    int n;
    if (dir_list(&names, &n, path, NULL) != OK) return;
    for (int i = 0; i < n; i++) {
        char *entry = path_join(path, names[i]);
        /* what cannot be removed now is met again */
        if (is_left_over(entry, writer_of(names[i], name))) (void)!dir_remove(entry, NULL);
        free(entry);
    }
    dir_list_free(names, n);
}
