/* The safetensors writer: bytes as the reference writes them, shards, and no half file. */
#include "base/fs.h"
#include "base/json.h"
#include "tensor/safetensors.h"
#include "tests/support/tmp.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static char *dir;

static void setup(void)
{
    dir = tmp_dir();
}

static void teardown(void)
{
    tmp_dir_remove(dir);
}

TestSuite(safewrite, .init = setup, .fini = teardown);

static char *read_in_dir(const char *name, size_t *len)
{
    Err err = {0};
    char *path = path_join(dir, name), *text;
    cr_assert_eq(file_read(&text, len, path, &err), OK, "%s", err.line);
    free(path);
    return text;
}

static bool in_dir(const char *name)
{
    char *path = path_join(dir, name);
    bool there = path_exists(path);
    free(path);
    return there;
}

static const uint8_t bytes[64] = {1, 2, 3, 4, 5, 6, 7, 8, 9};

/* The worked bytes of the reference's tests. */
Test(safewrite, headers)
{
    static const int64_t shape[] = {1, 1, 2, 3};
    static const SafeTensor attn = {"attn0", ST_F32, 4, shape, bytes, 24, NULL};
    static const struct {
        const char *name;
        const char *meta[3];
        int n;
        const char *want;
        size_t len;
    } cases[] = {
        {"empty", {NULL}, 0, "{}      ", 8},
        {"format", {"format", "pt"}, 0, "{\"__metadata__\":{\"format\":\"pt\"}}", 32},
        {"framework", {"framework", "pt"}, 0, "{\"__metadata__\":{\"framework\":\"pt\"}}     ", 40},
        {"one",
         {NULL},
         1,
         "{\"attn0\":{\"dtype\":\"F32\",\"shape\":[1,1,2,3],\"data_offsets\":[0,24]}}       ",
         72},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        StrBuf b = {0};
        int order[1];
        Err err = {0};
        cr_assert_eq(safetensors_header(&b, order, &attn, cases[i].n,
                                        cases[i].meta[0] ? cases[i].meta : NULL, &err),
                     OK, "%s", err.line);
        cr_expect_str_eq(b.data, cases[i].want, "%s", cases[i].name);
        cr_expect_eq(b.len, cases[i].len, "%s", cases[i].name);
        strbuf_clear(&b);
    }
}

Test(safewrite, a_whole_file)
{
    static const int64_t two[] = {2}, scalar[1];
    SafeTensor t[] = {
        {"b.u8", ST_U8, 1, two, bytes, 2, NULL},       {"z.f32", ST_F32, 0, scalar, bytes, 4, NULL},
        {"a.f32", ST_F32, 1, two, bytes + 1, 8, NULL}, {"c.bf16", ST_BF16, 1, two, bytes, 4, NULL},
        {"d.f16", ST_F16, 1, two, bytes, 4, NULL},
    };
    static const char header[] =
        "{\"__metadata__\":{\"format\":\"pt\",\"k\":\"\\\"v\\\"\"},"
        "\"a.f32\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
        "\"z.f32\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[8,12]},"
        "\"c.bf16\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[12,16]},"
        "\"d.f16\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[16,20]},"
        "\"b.u8\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[20,22]}}";
    static const char *const meta[] = {"k", "\"v\"", NULL};
    Err err = {0};
    char *path = path_join(dir, "m.safetensors");
    cr_assert_eq(safetensors_write(path, t, 5, meta, NULL, NULL, &err), OK, "%s", err.line);
    size_t n;
    char *file = read_in_dir("m.safetensors", &n);
    size_t padded = (strlen(header) + 7) / 8 * 8;
    cr_assert_eq(n, 8 + padded + 22);
    cr_assert(file[0] == (char)(padded & 0xFF) && file[1] == (char)(padded >> 8));
    cr_assert_eq(memcmp(file + 8, header, strlen(header)), 0, "%.*s", (int)padded, file + 8);
    for (size_t i = strlen(header); i < padded; i++)
        cr_assert_eq(file[8 + i], ' ');
    cr_assert_eq(memcmp(file + 8 + padded, bytes + 1, 8), 0);
    cr_assert_eq(memcmp(file + 8 + padded + 8, bytes, 4), 0);
    free(file);

    SafeTensors *s;
    cr_assert_eq(safetensors_open(&s, path, &err), OK, "%s", err.line);
    cr_assert_eq(safetensors_count(s), 5);
    for (int i = 0; i < 5; i++) {
        const SafeTensor *back = safetensors_find(s, t[i].name);
        cr_assert(back && back->dtype == t[i].dtype && back->bytes == t[i].bytes);
        cr_assert_eq(memcmp(back->data, t[i].data, t[i].bytes), 0);
    }
    cr_assert_str_eq(safetensors_meta(s, "k"), "\"v\"");
    safetensors_close(s);
    free(path);
}

typedef struct Source {
    int calls, fail_at;
    const char *last;
} Source;

static Status in_pieces(void *ud, const SafeTensor *t, FileOut *f, Err *err)
{
    Source *s = ud;
    if (s->calls++ == s->fail_at) return err_set(err, E_FAILED, "tensor '%s': no more", t->name);
    s->last = t->name;
    for (size_t i = 0; i < t->bytes; i++)
        file_out_write(f, t->name, 1);
    return OK;
}

Test(safewrite, streams_from_a_source)
{
    static const int64_t n[] = {3}, none[] = {0};
    SafeTensor t[] = {{"b", ST_U8, 1, n, NULL, 3, NULL},
                      {"a", ST_U8, 1, n, NULL, 3, NULL},
                      {"e", ST_U8, 1, none, NULL, 0, NULL}};
    Err err = {0};
    Source src = {.fail_at = -1};
    char *path = path_join(dir, "m.safetensors");
    cr_assert_eq(safetensors_write(path, t, 3, NULL, in_pieces, &src, &err), OK, "%s", err.line);
    size_t len;
    char *file = read_in_dir("m.safetensors", &len);
    cr_assert_eq(memcmp(file + len - 6, "aaabbb", 6), 0);
    cr_assert_eq(src.calls, 2, "a tensor without bytes needs no call");
    free(file);

    /* a failure in between leaves the old file and nothing else */
    src = (Source){.fail_at = 1};
    cr_assert_eq(safetensors_write(path, t, 2, NULL, in_pieces, &src, &err), E_FAILED);
    cr_assert_str_eq(err.line, "tensor 'b': no more");
    char **names;
    int n_names;
    cr_assert_eq(dir_list(&names, &n_names, dir, &err), OK);
    cr_assert_eq(n_names, 1);
    dir_list_free(names, n_names);
    SafeTensors *s;
    cr_assert_eq(safetensors_open(&s, path, &err), OK, "%s", err.line);
    cr_assert_eq(safetensors_count(s), 3);
    safetensors_close(s);
    free(path);
}

static Status too_little(void *ud, const SafeTensor *t, FileOut *f, Err *err)
{
    file_out_write(f, "x", 1);
    return OK;
}

/* The teardown does not run where a test is aborted. */
static void remove_dir(void *ud, const char *message)
{
    tmp_dir_remove(ud);
}

Test(safewrite, a_source_must_write_all, .signal = SIGABRT)
{
    panic_set_hook(remove_dir, dir);
    static const int64_t n[] = {3};
    SafeTensor t = {"b", ST_U8, 1, n, NULL, 3, NULL};
    Err err;
    char *path = path_join(dir, "m.safetensors");
    Status s = safetensors_write(path, &t, 1, NULL, too_little, NULL, &err);
    cr_assert_eq(s, OK);
}

Test(safewrite, wrong_tensors_are_refused)
{
    static const int64_t n[] = {3}, negative[] = {-1}, huge[] = {INT64_MAX, 4};
    static const SafeTensor wrong[][2] = {
        {{"a", ST_U8, 1, n, bytes, 4, NULL}},
        {{"a", ST_F4, 1, n, bytes, 2, NULL}},
        {{"a", ST_U8, 1, negative, bytes, 1, NULL}},
        {{"a", ST_F32, 2, huge, bytes, 1, NULL}},
        {{"__metadata__", ST_U8, 1, n, bytes, 3, NULL}},
        {{"\xff", ST_U8, 1, n, bytes, 3, NULL}},
        {{"a", ST_U8, 1, n, bytes, 3, NULL}, {"a", ST_I8, 1, n, bytes, 3, NULL}},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        Err err = {0};
        char *path = path_join(dir, "m.safetensors");
        cr_expect_eq(
            safetensors_write(path, wrong[i], wrong[i][1].name ? 2 : 1, NULL, NULL, NULL, &err),
            E_FAILED, "case %zu", i);
        cr_expect(strstr(err.line, i < 6 ? "m.safetensors: tensor '" : "tensor 'a': the name"),
                  "case %zu: %s", i, err.line);
        cr_expect_not(path_exists(path), "case %zu", i);
        free(path);
    }
}

/* As transformers and huggingface_hub split: first come, a large tensor has a shard of its own. */
Test(safewrite, shards_and_index)
{
    static const int64_t n4[] = {4}, n20[] = {20}, n6[] = {6};
    SafeTensor t[] = {
        {"w4", ST_U8, 1, n4, bytes, 4, NULL},     {"big", ST_U8, 1, n20, bytes, 20, NULL},
        {"w6", ST_U8, 1, n6, bytes, 6, NULL},     {"over", ST_U8, 1, n4, bytes, 4, NULL},
        {"a.last", ST_U8, 1, n6, bytes, 6, NULL},
    };
    Err err = {0};
    char *stale = path_join(dir, "model.safetensors"),
         *kept = path_join(dir, "model-x.safetensors");
    cr_assert_eq(file_write_atomic(stale, "x", 1, &err), OK);
    cr_assert_eq(file_write_atomic(kept, "x", 1, &err), OK);
    cr_assert_eq(safetensors_write_model(dir, t, 5, 10, NULL, NULL, &err), OK, "%s", err.line);
    static const char want[] = "{\n"
                               "  \"metadata\": {\n"
                               "    \"total_parameters\": 40,\n"
                               "    \"total_size\": 40\n"
                               "  },\n"
                               "  \"weight_map\": {\n"
                               "    \"a.last\": \"model-00003-of-00003.safetensors\",\n"
                               "    \"big\": \"model-00001-of-00003.safetensors\",\n"
                               "    \"over\": \"model-00003-of-00003.safetensors\",\n"
                               "    \"w4\": \"model-00002-of-00003.safetensors\",\n"
                               "    \"w6\": \"model-00002-of-00003.safetensors\"\n"
                               "  }\n"
                               "}\n";
    char *index = read_in_dir("model.safetensors.index.json", NULL);
    cr_assert_str_eq(index, want);
    cr_assert(!path_exists(stale), "a loader would take it before the index");
    cr_assert(path_exists(kept), "no weight file of a save");
    SafeTensors *s;
    cr_assert_eq(safetensors_open(&s, dir, &err), OK, "%s", err.line);
    cr_assert_eq(safetensors_count(s), 5);
    cr_assert_eq(safetensors_unlisted(s), 0);
    cr_assert_str_eq(safetensors_meta(s, "format"), "pt");
    safetensors_close(s);

    /* fewer shards: the others and, for one file, the index go */
    cr_assert_eq(safetensors_write_model(dir, t, 5, 25, NULL, NULL, &err), OK, "%s", err.line);
    cr_assert(in_dir("model-00002-of-00002.safetensors") &&
              !in_dir("model-00003-of-00003.safetensors"));
    cr_assert_eq(safetensors_write_model(dir, t, 5, 1000, NULL, NULL, &err), OK, "%s", err.line);
    cr_assert(in_dir("model.safetensors") && !in_dir("model.safetensors.index.json"));
    cr_assert(!in_dir("model-00001-of-00002.safetensors"));
    cr_assert_eq(safetensors_open(&s, dir, &err), OK, "%s", err.line);
    cr_assert_eq(safetensors_count(s), 5);
    safetensors_close(s);
    free(index), free(stale), free(kept);
}

/* What is known beforehand against the files themselves. */
static void expect_layout(const SafeLayout *l, const SafeTensor *t, int n)
{
    for (int k = 0; k < l->n_files; k++) {
        size_t len;
        char *file = read_in_dir(l->files[k].name, &len);
        cr_assert_eq(len, l->files[k].bytes, "%s", l->files[k].name);
        cr_assert_eq(memcmp(file, l->files[k].header.data, l->files[k].header.len), 0);
        for (int i = 0; i < n; i++)
            if (l->file_of[i] == k)
                cr_assert_eq(memcmp(file + l->offsets[i], t[i].data, t[i].bytes), 0, "%s",
                             t[i].name);
        free(file);
    }
}

Test(safewrite, layouts_are_those_of_the_files)
{
    static const int64_t n4[] = {4}, n20[] = {20}, n3[] = {3};
    SafeTensor t[] = {
        {"w4", ST_U8, 1, n4, bytes, 4, NULL},          {"big", ST_U8, 1, n20, bytes + 1, 20, NULL},
        {"w6", ST_BF16, 1, n3, bytes + 2, 6, NULL},    {"over", ST_U8, 1, n4, bytes + 3, 4, NULL},
        {"a.last", ST_F16, 1, n3, bytes + 4, 6, NULL},
    };
    static const char *const meta[] = {"format", "pt", NULL};
    Err err = {0};
    SafeLayout l;
    for (uint64_t most = 10; most < 100; most *= 3) {
        cr_assert_eq(safetensors_write_model(dir, t, 5, most, NULL, NULL, &err), OK);
        cr_assert_eq(safetensors_layout_model(&l, t, 5, most, &err), OK, "%s", err.line);
        cr_assert_eq(l.n_files, most == 10 ? 3 : most == 30 ? 2 : 1);
        expect_layout(&l, t, 5);
        cr_assert_eq(in_dir("model.safetensors.index.json"), l.index.len > 0);
        if (l.index.len > 0) {
            char *index = read_in_dir("model.safetensors.index.json", NULL);
            cr_assert_str_eq(index, l.index.data);
            free(index);
        }
        safetensors_layout_clear(&l);
    }
    char *path = path_join(dir, "adapter.safetensors");
    cr_assert_eq(safetensors_write(path, t, 5, NULL, NULL, NULL, &err), OK);
    cr_assert_eq(safetensors_layout(&l, "adapter.safetensors", t, 5, meta, &err), OK);
    expect_layout(&l, t, 5);
    safetensors_layout_clear(&l);
    t[4].name = "w4";
    cr_assert_eq(safetensors_layout(&l, "adapter.safetensors", t, 5, meta, &err), E_FAILED);
    cr_assert_str_eq(err.line, "tensor 'w4': the name stands twice");
    free(path);
}
