/* Files and folders, with the failures that users meet. */
#include "base/fs.h"
#include "base/hash.h"
#include "tests/support/tmp.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char *dir;

static void setup(void)
{
    dir = tmp_dir();
}

static void teardown(void)
{
    tmp_dir_remove(dir);
}

TestSuite(fs, .init = setup, .fini = teardown);

static char *in_dir(const char *name)
{
    return path_join(dir, name);
}

static void put(const char *name, const char *text)
{
    Err err = {0};
    char *path = in_dir(name);
    cr_assert_eq(file_write_atomic(path, text, strlen(text), &err), OK, "%s", err.line);
    free(path);
}

Test(fs, paths)
{
    static const struct {
        const char *dir, *name, *want;
    } cases[] = {
        {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"a", "/b", "/b"}, {"", "b", "b"}, {"/", "b", "/b"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *p = path_join(cases[i].dir, cases[i].name);
        cr_expect_str_eq(p, cases[i].want);
        free(p);
    }
    cr_assert_str_eq(path_base("a/b/c.txt"), "c.txt");
    cr_assert_str_eq(path_base("c.txt"), "c.txt");
}

Test(fs, read_and_map)
{
    Err err = {0};
    put("full", "some text");
    put("empty", "");
    static const struct {
        const char *name, *text;
    } cases[] = {{"full", "some text"}, {"empty", ""}};
    for (int i = 0; i < 2; i++) {
        char *path = in_dir(cases[i].name), *text;
        size_t n;
        cr_assert_eq(file_read(&text, &n, path, &err), OK, "%s", err.line);
        cr_assert_str_eq(text, cases[i].text);
        cr_assert_eq(n, strlen(cases[i].text));
        free(text);
        FileMap m;
        cr_assert_eq(file_map(&m, path, &err), OK, "%s", err.line);
        cr_assert_not_null(m.data);
        cr_assert_eq(m.len, n);
        cr_assert_eq(memcmp(m.data, cases[i].text, n), 0);
        file_unmap(&m);
        file_unmap(&m);
        free(path);
    }
    /* a file whose size is not told */
    char *text;
    size_t n;
    cr_assert_eq(file_read(&text, &n, "/proc/self/status", &err), OK, "%s", err.line);
    cr_assert_gt(n, 100);
    free(text);
    FileMap m;
    cr_assert_eq(file_map(&m, "/proc/self/status", &err), OK, "%s", err.line);
    cr_assert(!m.mapped && m.len > 100);
    file_unmap(&m);
}

Test(fs, reading_fails_with_the_reason)
{
    Err err = {0};
    char *absent = in_dir("absent"), *text;
    FileMap m;
    cr_assert_eq(file_read(&text, NULL, absent, &err), E_INPUT);
    char *want = str_format("%s: cannot open: No such file or directory", absent);
    cr_assert_str_eq(err.line, want);
    cr_assert_eq(file_map(&m, dir, &err), E_INPUT);
    cr_assert(str_ends(err.line, ": is a folder, a file is needed"), "%s", err.line);
    free(want);
    char *pipe = in_dir("pipe"), *copy = in_dir("copy");
    cr_assert_eq(mkfifo(pipe, 0600), 0); /* nobody writes to it: opened, it would wait for ever */
    want = str_format("%s: is a pipe, a file is needed", pipe);
    cr_assert_eq(file_read(&text, NULL, pipe, &err), E_INPUT);
    cr_assert_str_eq(err.line, want);
    cr_assert_eq(file_map(&m, pipe, &err), E_INPUT);
    cr_assert_str_eq(err.line, want);
    cr_assert_eq(file_copy(pipe, copy, &err), E_INPUT);
    cr_assert_str_eq(err.line, want);
    cr_assert(!path_exists(copy));
    cr_assert_eq(unlink(pipe), 0);
    free(copy);
    free(pipe);
    free(want);
    free(absent);
}

Test(fs, what_does_not_end_is_refused)
{
    Err err = {0};
    char *text = NULL;
    FileMap m;
    const char *want =
        "/dev/zero: does not end within 256 MiB, the most that is read of what is no "
        "regular file";
    cr_assert_eq(file_read(&text, NULL, "/dev/zero", &err), E_INPUT);
    cr_assert_str_eq(err.line, want);
    cr_assert_eq(file_map(&m, "/dev/zero", &err), E_INPUT);
    cr_assert_str_eq(err.line, want);
    /* of a regular file its size is the limit */
    char *path = in_dir("long");
    put("long", "x");
    cr_assert_eq(truncate(path, (off_t)FILE_STREAM_MAX + 5), 0);
    size_t len;
    cr_assert_eq(file_read(&text, &len, path, &err), OK, "%s", err.line);
    cr_assert_eq(len, (size_t)FILE_STREAM_MAX + 5);
    free(text), free(path);
}

Test(fs, atomic_write_replaces_or_leaves)
{
    Err err = {0};
    put("a", "old");
    put("a", "new");
    char *path = in_dir("a"), *text, **names;
    cr_assert_eq(file_read(&text, NULL, path, &err), OK);
    cr_assert_str_eq(text, "new");
    free(text);
    int n;
    cr_assert_eq(dir_list(&names, &n, dir, &err), OK);
    cr_assert_eq(n, 1, "a temporary file stayed");
    dir_list_free(names, n);
    free(path);
    path = in_dir("no/such/folder");
    cr_assert_eq(file_write_atomic(path, "x", 1, &err), E_FAILED);
    cr_assert(strstr(err.line, "No such file"), "%s", err.line);
    free(path);
}

Test(fs, out_counts_and_sums)
{
    Err err = {0};
    FileOut f;
    char *path = in_dir("out");
    cr_assert_eq(file_out_open(&f, path, &err), OK, "%s", err.line);
    size_t n = 3 << 20;
    uint8_t *bytes = xmalloc(n);
    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)(i * 31 + i / 255);
    /* pieces below, at and above the buffer's size */
    static const size_t pieces[] = {1, 1000, (1 << 20) - 1, 1 << 20, 5, 0, (1 << 20) - 1006};
    size_t at = 0;
    for (int i = 0; i < 7; i++) {
        file_out_write(&f, bytes + at, pieces[i]);
        at += pieces[i];
    }
    file_out_write(&f, bytes + at, n - at);
    cr_assert_eq(f.total, n);
    cr_assert_eq(f.crc, crc32c(0, bytes, n));
    cr_assert_eq(file_out_close(&f, &err), OK, "%s", err.line);
    FileMap m;
    cr_assert_eq(file_map(&m, path, &err), OK);
    cr_assert(m.len == n && memcmp(m.data, bytes, n) == 0);
    file_unmap(&m);
    free(bytes);

    cr_assert_eq(file_out_open(&f, path, &err), OK);
    file_out_abort(&f);
    file_out_abort(&f);
    cr_assert(!path_exists(path));
    free(path);
}

Test(fs, a_full_disk_is_told_once_at_the_end)
{
    if (!path_exists("/dev/full")) cr_skip_test("no /dev/full");
    Err err = {0};
    FileOut f;
    cr_assert_eq(file_out_open(&f, "/dev/full", &err), OK, "%s", err.line);
    char block[100000] = {0};
    for (int i = 0; i < 50; i++)
        file_out_write(&f, block, sizeof block);
    cr_assert_eq(file_out_close(&f, &err), E_FAILED);
    cr_assert_str_eq(err.line, "/dev/full: cannot write: No space left on device");
}

Test(fs, folders)
{
    Err err = {0};
    char *deep = in_dir("x/y//z/"), *top = in_dir("x"), **names;
    cr_assert_eq(dir_make(deep, &err), OK, "%s", err.line);
    cr_assert_eq(dir_make(deep, &err), OK, "%s", err.line);
    cr_assert(path_is_dir(deep));
    cr_assert_eq(dir_sync(top, &err), OK, "%s", err.line);
    put("x/b", "1");
    put("x/a", "2");
    int n;
    cr_assert_eq(dir_list(&names, &n, top, &err), OK);
    cr_assert(n == 3 && str_eq(names[0], "a") && str_eq(names[1], "b") && str_eq(names[2], "y"));
    dir_list_free(names, n);

    /* a link is removed, not what it points at */
    put("outside", "stays");
    char *link_path = in_dir("x/y/link"), *outside = in_dir("outside");
    cr_assert_eq(symlink(dir, link_path), 0);
    cr_assert_eq(dir_remove(top, &err), OK, "%s", err.line);
    cr_assert(!path_exists(top) && path_exists(outside));
    cr_assert_eq(dir_remove(top, &err), OK, "absent is fine: %s", err.line);

    char *below_file = in_dir("outside/sub");
    cr_assert_eq(dir_make(below_file, &err), E_INPUT);
    char *line = str_format("%s: cannot make the folder: a file has that name", outside);
    cr_assert_str_eq(err.line, line);
    cr_assert_eq(dir_make(outside, &err), E_INPUT);
    cr_assert_str_eq(err.line, line);
    free(line);
    cr_assert_eq(dir_list(&names, &n, top, &err), E_INPUT);
    free(deep), free(top), free(link_path), free(outside), free(below_file);
}

Test(fs, what_is_in_the_way)
{
    put("file", "1");
    char *link_path = in_dir("nowhere"), *nothing = in_dir("absent");
    cr_assert_eq(symlink(nothing, link_path), 0);
    static const struct {
        const char *path, *found;
    } cases[] = {{"file", "file"},
                 {"file/", "file"},
                 {"file/a//b", "file"},
                 {"nowhere/a", "nowhere"},
                 {"absent/a", NULL},
                 {".", NULL},
                 {"", NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *path = in_dir(cases[i].path), *got = path_in_the_way(path);
        char *want = cases[i].found ? in_dir(cases[i].found) : NULL;
        cr_expect(want ? got && str_eq(got, want) : !got, "%s: %s", path, got ? got : "nothing");
        free(path), free(got), free(want);
    }
    free(link_path), free(nothing);
}

Test(fs, lies_in)
{
    put("file", "1");
    Err err = {0};
    char *in = in_dir("in"), *beside = in_dir("in2"), *link_path = in_dir("link");
    cr_assert_eq(dir_make(in, &err), OK);
    cr_assert_eq(dir_make(beside, &err), OK);
    cr_assert_eq(symlink(in, link_path), 0);
    static const struct {
        const char *path;
        bool inside;
    } cases[] = {{"in", true},        {"in/", true},   {"in/new/deep", true}, {"link/new", true},
                 {"in2/../in", true}, {"in2", false},  {"in2/new", false},    {"file", false},
                 {"absent", false},   {"in/..", false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *path = in_dir(cases[i].path);
        cr_expect_eq(path_lies_in(path, in), cases[i].inside, "%s", cases[i].path);
        cr_expect_eq(path_lies_in(path, "/"), true, "%s", cases[i].path);
        free(path);
    }
    cr_expect_eq(path_lies_in("new", "."), true);
    cr_expect_eq(path_lies_in("/absent/new", in), false);
    cr_expect_eq(path_lies_in("new", "absent"), false);
    free(in), free(beside), free(link_path);
}

Test(fs, slashes_at_the_end)
{
    static const char *const cases[][2] = {{"a/b//", "a/b"}, {"a/b", "a/b"}, {"/a/", "/a"},
                                           {"/", "/"},       {"//", "/"},    {"", ""}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *got = path_trim(cases[i][0]);
        cr_expect_str_eq(got, cases[i][1]);
        free(got);
    }
}

Test(fs, a_folder_to_write_is_new_or_empty_and_elsewhere)
{
    Err err = {0};
    put("file", "1");
    char *full = in_dir("full"), *empty = in_dir("empty"), *inside = in_dir("full/sub");
    char *file = in_dir("file"), *below = in_dir("file/sub"), *fresh = in_dir("new/deep");
    cr_assert_eq(dir_make(inside, &err), OK);
    cr_assert_eq(dir_make(empty, &err), OK);
    const struct {
        const char *path, *source, *says;
    } cases[] = {{fresh, full, NULL},
                 {empty, full, NULL},
                 {inside, NULL, NULL},
                 {full, empty, "full: is not empty; name a new folder"},
                 {empty, empty, "which is read; name a folder elsewhere"},
                 {inside, full, "which is read; name a folder elsewhere"},
                 {file, NULL, "file: is a file; name a new folder"},
                 {below, NULL, "file: is a file; name a new folder"},
                 {"", NULL, "has no name"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        err.line[0] = 0;
        cr_expect_eq(dir_check_new(cases[i].path, cases[i].source, &err),
                     cases[i].says ? E_INPUT : OK, "case %zu: %s", i, err.line);
        cr_expect(!cases[i].says || strstr(err.line, cases[i].says), "case %zu: %s", i, err.line);
    }
    cr_expect_not(path_exists(fresh), "nothing is made");
    free(full), free(empty), free(inside), free(file), free(below), free(fresh);
}

Test(fs, copy)
{
    Err err = {0};
    put("from", "bytes");
    char *from = in_dir("from"), *to = in_dir("to"), *text;
    cr_assert_eq(chmod(from, 0640), 0);
    cr_assert_eq(file_copy(from, to, &err), OK, "%s", err.line);
    cr_assert_eq(file_read(&text, NULL, to, &err), OK);
    cr_assert_str_eq(text, "bytes");
    struct stat st;
    cr_assert_eq(stat(to, &st), 0);
    cr_assert_eq(st.st_mode & 0777, 0640);
    cr_assert_eq(file_copy(from, from, &err), E_INPUT);
    free(text);
    cr_assert_eq(file_read(&text, NULL, from, &err), OK);
    cr_assert_str_eq(text, "bytes", "copying onto itself emptied it");
    cr_assert_eq(file_copy(dir, to, &err), E_INPUT);
    free(text), free(from), free(to);
}

/* Threads write a file's parts in any order; what does not fit is told before the first byte. */
Test(fs, sized_files)
{
    char *path = path_join(dir, "sized");
    Err err = {0};
    int fd;
    cr_assert_eq(file_create_sized(&fd, path, 10, &err), OK, "%s", err.line);
    cr_assert_eq(file_write_at(fd, "89", 2, 8, path, &err), OK);
    cr_assert_eq(file_write_at(fd, "01234567", 8, 0, path, &err), OK);
    close(fd);
    char *text;
    size_t len;
    cr_assert_eq(file_read(&text, &len, path, &err), OK);
    cr_assert_eq(len, 10);
    cr_assert_str_eq(text, "0123456789");
    free(text);
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit = {.rlim_cur = 4096, .rlim_max = RLIM_INFINITY};
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    cr_assert_eq(file_create_sized(&fd, path, 4097, &err), E_FAILED);
    char *line = str_format("%s: no room for 4097 bytes: File too large", path);
    cr_assert_str_eq(err.line, line);
    cr_assert_eq(fd, -1);
    cr_assert_eq(file_create_sized(&fd, path, 4096, &err), OK, "%s", err.line);
    cr_assert_eq(file_write_at(fd, "x", 1, 4096, path, &err), E_FAILED);
    close(fd);
    free(line);
    free(path);
}

static void put_old(const char *name, long seconds)
{
    char *path = path_join(dir, name);
    Err err = {0};
    cr_assert_eq(file_write_atomic(path, "x", 1, &err), OK);
    struct timespec old[2] = {{.tv_sec = time(NULL) - seconds}, {.tv_sec = time(NULL) - seconds}};
    cr_assert_eq(utimensat(AT_FDCWD, path, old, 0), 0);
    free(path);
}

/* Only what a dead process left, of that name, and long ago. */
Test(fs, sweeps_what_killed_processes_left)
{
    pid_t child = fork();
    if (child == 0) _exit(0);
    cr_assert_eq(waitpid(child, NULL, 0), child); /* from here on nobody has its number */
    const long hours = 3 * 3600;
    struct {
        char *name;
        long age;
        bool stays;
    } cases[] = {
        {str_format("tokens-a.tmp.%ld", (long)child), hours, false},
        {str_format("tokens-b.tmp.%ld.5f", (long)child), hours, false},
        {str_format("tokens-c.tmp.%ld", (long)child), 60, true},
        {str_format("tokens-d.tmp.%ld", (long)getpid()), hours, true},
        {str_format("other.tmp.%ld", (long)child), hours, true},
        {str_format("tokens-e.tmp.%ldx", (long)child), hours, true},
        {str_format("tokens-f.%ld", (long)child), hours, true},
    };
    enum { N = sizeof cases / sizeof *cases };
    for (int i = 0; i < N; i++)
        put_old(cases[i].name, cases[i].age);
    dir_sweep(dir, "tokens-");
    for (int i = 0; i < N; i++) {
        char *path = path_join(dir, cases[i].name);
        cr_expect_eq(path_exists(path), cases[i].stays, "%s", cases[i].name);
        free(path);
        free(cases[i].name);
    }
    dir_sweep("/nowhere", "tokens-");
}
