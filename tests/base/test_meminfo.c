/* Available memory as the system and control groups of both versions tell it. */
#include "base/fs.h"
#include "base/meminfo.h"
#include "tests/support/tmp.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static void put(const char *root, const char *path, const char *text)
{
    Err err = {0};
    char *full = str_format("%s%s", root, path), *dir = xstrdup(full);
    *strrchr(dir, '/') = '\0';
    cr_assert_eq(dir_make(dir, &err), OK, "%s", err.line);
    cr_assert_eq(file_write_atomic(full, text, strlen(text), &err), OK, "%s", err.line);
    free(dir);
    free(full);
}

Test(meminfo, the_least_of_system_and_groups)
{
    char *root = tmp_dir();
    cr_expect_eq(meminfo_available(root), 0, "nothing is known");
    put(root, "/proc/meminfo",
        "MemTotal:       16000 kB\nMemFree: 10 kB\nMemAvailable:    8000 kB\n");
    cr_expect_eq(meminfo_available(root), 8000 << 10);

    /* the limit of a group above counts, too; what is cached of files is not in use */
    put(root, "/proc/self/cgroup", "0::/jobs/one\n");
    put(root, "/sys/fs/cgroup/jobs/one/memory.max", "max\n");
    put(root, "/sys/fs/cgroup/jobs/memory.max", "5000000\n");
    put(root, "/sys/fs/cgroup/jobs/memory.current", "3000000\n");
    cr_expect_eq(meminfo_available(root), 2000000);
    put(root, "/sys/fs/cgroup/jobs/memory.stat", "anon 1\nactive_file 7\ninactive_file 1000000\n");
    cr_expect_eq(meminfo_available(root), 3000000);
    put(root, "/sys/fs/cgroup/jobs/one/memory.max", "4000000\n");
    put(root, "/sys/fs/cgroup/jobs/one/memory.current", "3999999\n");
    cr_expect_eq(meminfo_available(root), 1);
    put(root, "/sys/fs/cgroup/jobs/one/memory.current", "9999999\n");
    cr_expect_eq(meminfo_available(root), 0, "more is in use than is allowed");

    put(root, "/proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/slurm/job\n");
    put(root, "/sys/fs/cgroup/memory/slurm/job/memory.limit_in_bytes", "6000000\n");
    put(root, "/sys/fs/cgroup/memory/slurm/job/memory.usage_in_bytes", "4000000\n");
    put(root, "/sys/fs/cgroup/memory/slurm/job/memory.stat", "total_inactive_file 500000\n");
    put(root, "/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    cr_expect_eq(meminfo_available(root), 2500000);
    tmp_dir_remove(root);
}

Test(meminfo, of_this_machine)
{
    cr_expect_gt(meminfo_available(""), 1 << 20);
}
