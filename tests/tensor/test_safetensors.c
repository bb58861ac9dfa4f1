/* The safetensors reader: every check of the reference with its name, and what must be accepted. */
#include "base/fs.h"
#include "tensor/safetensors.h"
#include "tests/support/shared.h"
#include "tests/support/tmp.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A file of this header and n_data bytes 0, 1, 2, ... */
static uint8_t *build(const char *header, size_t header_len, size_t n_data, size_t *len)
{
    uint8_t *file = xcalloc(8 + header_len + n_data, 1);
    for (int i = 0; i < 8; i++)
        file[i] = (uint8_t)((uint64_t)header_len >> (8 * i));
    memcpy(file + 8, header, header_len);
    for (size_t i = 0; i < n_data; i++)
        file[8 + header_len + i] = (uint8_t)i;
    *len = 8 + header_len + n_data;
    return file;
}

typedef struct Case {
    const char *name, *header;
    size_t n_data;
    const char *want; /* the reference's error, or NULL when it must be read */
} Case;

/* clang-format off */
static const Case cases[] = {
    {"empty", "{}", 0, NULL},
    {"white space around", "\t\n{}\r \t\n", 0, NULL},
    {"one", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, NULL},
    {"scalar", "{\"a\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]}}", 8, NULL},
    {"a zero in the shape", "{\"a\":{\"dtype\":\"F32\",\"shape\":[3,0],\"data_offsets\":[0,0]}}", 0, NULL},
    {"several without bytes", "{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},"
     "\"c\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
     "\"d\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[1,1]}}", 1, NULL},
    {"any order in the header", "{\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]},"
     "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 3, NULL},
    {"extra keys", "{\"a\":{\"x\":[{}],\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, NULL},
    {"metadata", "{\"__metadata__\":{\"format\":\"pt\",\"k\":\"v\"}}", 0, NULL},
    {"null metadata", "{\"__metadata__\":null}", 0, NULL},
    {"two F4", "{\"a\":{\"dtype\":\"F4\",\"shape\":[2],\"data_offsets\":[0,1]}}", 1, NULL},
    {"four F6", "{\"a\":{\"dtype\":\"F6_E2M3\",\"shape\":[4],\"data_offsets\":[0,3]}}", 3, NULL},
    {"a name of no letters", "{\"\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, NULL},

    {"no UTF-8", "{\"\xff\":1}", 0, "InvalidHeader"},
    {"no JSON", "{", 0, "InvalidHeaderDeserialization"},
    {"no object", "[]", 0, "InvalidHeaderDeserialization"},
    {"nothing", "", 0, "InvalidHeaderDeserialization"},
    {"bytes behind the object", "{}x", 0, "InvalidHeaderDeserialization"},
    {"entry no object", "{\"a\":1}", 0, "InvalidHeaderDeserialization"},
    {"no dtype", "{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "InvalidHeaderDeserialization"},
    {"no shape", "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "InvalidHeaderDeserialization"},
    {"no offsets", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "InvalidHeaderDeserialization"},
    {"one offset", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1, "InvalidHeaderDeserialization"},
    {"three offsets", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}}", 1, "InvalidHeaderDeserialization"},
    {"real offset", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1.0]}}", 1, "InvalidHeaderDeserialization"},
    {"negative offset", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[-1,1]}}", 1, "InvalidHeaderDeserialization"},
    {"text as offset", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[\"0\",1]}}", 1, "InvalidHeaderDeserialization"},
    {"negative size", "{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}}", 1, "InvalidHeaderDeserialization"},
    {"beyond 64 bits", "{\"a\":{\"dtype\":\"U8\",\"shape\":[99999999999999999999],\"data_offsets\":[0,1]}}", 1, "InvalidHeaderDeserialization"},
    {"unknown dtype", "{\"a\":{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "InvalidHeaderDeserialization"},
    {"dtype in small letters", "{\"a\":{\"dtype\":\"u8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "InvalidHeaderDeserialization"},
    {"metadata with a number", "{\"__metadata__\":{\"a\":1}}", 0, "InvalidHeaderDeserialization"},
    {"metadata no object", "{\"__metadata__\":[]}", 0, "InvalidHeaderDeserialization"},
    {"metadata twice", "{\"__metadata__\":{},\"__metadata__\":{}}", 0, "InvalidHeaderDeserialization"},
    {"key twice", "{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "InvalidHeaderDeserialization"},
    {"name twice", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
     "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "InvalidHeaderDeserialization"},
    {"NUL in a name", "{\"a\\u0000\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "InvalidHeaderDeserialization"},

    {"first not at 0", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2, "InvalidOffset"},
    {"end before begin", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,0]}}", 1, "InvalidOffset"},
    {"hole", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,3]}}", 3, "InvalidOffset"},
    {"overlap", "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}", 3, "InvalidOffset"},
    {"two of the same bytes", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "InvalidOffset"},
    {"elements overflow", "{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,1]}}", 1, "ValidationOverflow"},
    {"bits overflow", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1152921504606846976],\"data_offsets\":[0,1]}}", 1, "ValidationOverflow"},
    {"a size of 64 bits", "{\"a\":{\"dtype\":\"U8\",\"shape\":[18446744073709551614],\"data_offsets\":[0,1]}}", 1, "ValidationOverflow"},
    {"an offset of 64 bits", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[18446744073709551614,18446744073709551615]}}", 1, "InvalidOffset"},
    {"half a byte", "{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2, "MisalignedSlice"},
    {"six bits", "{\"a\":{\"dtype\":\"F6_E3M2\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "MisalignedSlice"},
    {"shape too large", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,4]}}", 4, "TensorInvalidInfo"},
    {"bytes behind", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 2, "MetadataIncompleteBuffer"},
    {"bytes behind nothing", "{}", 1, "MetadataIncompleteBuffer"},
    {"cut short", "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 1, "MetadataIncompleteBuffer"},
};
/* clang-format on */

static void expect(const char *name, Status s, const Err *err, const char *file, const char *want)
{
    if (!want) {
        cr_expect_eq(s, OK, "%s: %s", name, err->line);
        return;
    }
    char *word = str_format("(%s)", want);
    cr_expect_eq(s, E_INPUT, "%s was accepted", name);
    cr_expect(str_starts(err->line, file) && str_ends(err->line, word), "%s: %s", name, err->line);
    free(word);
}

Test(safetensors, verdicts)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t len;
        uint8_t *file = build(cases[i].header, strlen(cases[i].header), cases[i].n_data, &len);
        SafeTensors *s = NULL;
        Err err = {0};
        Status status = safetensors_parse(&s, file, len, "m.safetensors", &err);
        expect(cases[i].name, status, &err, "m.safetensors: ", cases[i].want);
        safetensors_close(s);
        free(file);
    }
}

Test(safetensors, lengths)
{
    SafeTensors *s = NULL;
    Err err = {0};
    static const uint8_t zero[8] = {0}, large[9] = {0x01, 0xE1, 0xF5, 0x05}, long_header[9] = {2};
    Status status = safetensors_parse(&s, zero, 7, "m", &err);
    expect("7 bytes", status, &err, "m: ", "HeaderTooSmall");
    status = safetensors_parse(&s, zero, 8, "m", &err);
    expect("N 0", status, &err, "m: ", "InvalidHeaderDeserialization");
    status = safetensors_parse(&s, large, 9, "m", &err); /* 100000001 */
    expect("N > 1e8", status, &err, "m: ", "HeaderTooLarge");
    status = safetensors_parse(&s, long_header, 9, "m", &err);
    expect("N 2 of 1", status, &err, "m: ", "InvalidHeaderLength");
}

/* Every file cut at every byte: no crash, and no part of a good one is good. */
Test(safetensors, truncated_everywhere)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t len;
        uint8_t *file = build(cases[i].header, strlen(cases[i].header), cases[i].n_data, &len);
        for (size_t n = 0; n < len; n++) {
            uint8_t *part = xmalloc(n); /* of exactly this size, for the address sanitizer */
            memcpy(part, file, n);
            SafeTensors *s = NULL;
            Err err = {0};
            Status status = safetensors_parse(&s, part, n, "m", &err);
            if (!cases[i].want) cr_expect_eq(status, E_INPUT, "%s cut at %zu", cases[i].name, n);
            cr_expect((status == OK) == (*err.line == '\0'));
            safetensors_close(s);
            free(part);
        }
        free(file);
    }
}

Test(safetensors, views)
{
    static const char header[] =
        "{\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[0,12]},"
        "\"__metadata__\":{\"k\":\"v\",\"format\":\"pt\"},"
        "\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[12,13]}}";
    size_t len;
    uint8_t *file = build(header, strlen(header), 13, &len);
    SafeTensors *s;
    Err err = {0};
    cr_assert_eq(safetensors_parse(&s, file, len, "m", &err), OK, "%s", err.line);
    cr_assert_eq(safetensors_count(s), 2);
    const SafeTensor *a = safetensors_at(s, 0), *b = safetensors_find(s, "b");
    cr_assert_str_eq(a->name, "a");
    cr_assert(a->n_dims == 0 && safe_numel(a) == 1 && a->bytes == 1 && a->data[0] == 12);
    cr_assert(b->dtype == ST_BF16 && b->n_dims == 2 && b->shape[0] == 2 && b->shape[1] == 3);
    cr_assert(b->bytes == 12 && b->data == file + len - 13 && safe_numel(b) == 6);
    cr_assert_str_eq(b->file, "m");
    cr_assert_null(safetensors_find(s, "c"));
    cr_assert_null(safetensors_at(s, 2));
    const char *key, *value;
    cr_assert_str_eq(safetensors_meta(s, "format"), "pt");
    cr_assert_null(safetensors_meta(s, "x"));
    cr_assert(safetensors_meta_at(s, 0, &key, &value) && str_eq(key, "k") && str_eq(value, "v"));
    cr_assert(!safetensors_meta_at(s, 2, &key, &value));
    safetensors_close(s);
    free(file);
}

/* The names and widths of the format, as documented. */
Test(safetensors, dtypes)
{
    static const struct {
        const char *name;
        int bits;
    } want[] = {{"BOOL", 8},    {"F4", 4},          {"F6_E2M3", 6},     {"F6_E3M2", 6},
                {"U8", 8},      {"I8", 8},          {"F8_E5M2", 8},     {"F8_E4M3", 8},
                {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
                {"U16", 16},    {"F16", 16},        {"BF16", 16},       {"I32", 32},
                {"U32", 32},    {"F32", 32},        {"C64", 64},        {"F64", 64},
                {"I64", 64},    {"U64", 64}};
    cr_assert_eq(sizeof want / sizeof *want, ST_N);
    for (int t = 0; t < ST_N; t++) {
        cr_expect_str_eq(safe_dtype_name((SafeDType)t), want[t].name);
        cr_expect_eq(safe_dtype_bits((SafeDType)t), want[t].bits);
        /* eight elements are a whole number of bytes in all of them */
        char *header =
            str_format("{\"a\":{\"dtype\":\"%s\",\"shape\":[8],\"data_offsets\":[0,%d]}}",
                       want[t].name, want[t].bits);
        size_t len;
        uint8_t *file = build(header, strlen(header), (size_t)want[t].bits, &len);
        SafeTensors *s = NULL;
        Err err = {0};
        cr_expect_eq(safetensors_parse(&s, file, len, "m", &err), OK, "%s", err.line);
        if (s) cr_expect_eq(safetensors_at(s, 0)->dtype, (SafeDType)t);
        safetensors_close(s);
        free(file), free(header);
    }
    for (int t = 0; t < DT_N; t++) {
        DType back;
        SafeDType st = safe_dtype_from_tensor((DType)t);
        cr_expect(safe_dtype_to_tensor(st, &back) && back == (DType)t);
        cr_expect_eq((size_t)safe_dtype_bits(st), 8 * dtype_bytes((DType)t));
    }
    DType none;
    cr_expect(!safe_dtype_to_tensor(ST_F8_E4M3, &none));
}

Test(safetensors, the_references_own_bad_files)
{
    char *dir = shared_or_skip("data/bad-input/safetensors"),
         *list = path_join(dir, "EXPECTED.tsv");
    FILE *f = fopen(list, "r");
    char name[200], want[100];
    int n = 0;
    cr_assert(f && fscanf(f, "%*s %*s") == 0);
    while (fscanf(f, "%199s %99s", name, want) == 2) {
        char *path = path_join(dir, name);
        SafeTensors *s = NULL;
        Err err = {0};
        Status status = safetensors_open(&s, path, &err);
        expect(name, status, &err, path, str_eq(want, "ok") ? NULL : want);
        safetensors_close(s);
        free(path);
        n++;
    }
    fclose(f);
    cr_assert_geq(n, 11);
    free(dir), free(list);
}

/* ---- folders ---- */

static char *dir;

static void setup(void)
{
    dir = tmp_dir();
}

static void teardown(void)
{
    tmp_dir_remove(dir);
}

TestSuite(shards, .init = setup, .fini = teardown);

static void put(const char *name, const void *data, size_t len)
{
    Err err = {0};
    char *path = path_join(dir, name);
    cr_assert_eq(file_write_atomic(path, data, len, &err), OK, "%s", err.line);
    free(path);
}

static void put_one(const char *file, const char *a, const char *b)
{
    char *header = str_format("{\"%s\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                              "\"%s\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
                              a, b);
    size_t len;
    uint8_t *bytes = build(header, strlen(header), 2, &len);
    put(file, bytes, len);
    free(bytes), free(header);
}

static void put_index(const char *text)
{
    put("model.safetensors.index.json", text, strlen(text));
}

Test(shards, read_through_the_index)
{
    put_one("one.safetensors", "w", "extra");
    put_one("two.safetensors", "x", "w"); /* its own w is not the one that counts */
    put_index(
        "{\"metadata\":{},\"weight_map\":{\"x\":\"two.safetensors\",\"w\":\"one.safetensors\"}}");
    SafeTensors *s;
    Err err = {0};
    cr_assert_eq(safetensors_open(&s, dir, &err), OK, "%s", err.line);
    cr_assert_eq(safetensors_count(s), 2);
    cr_assert_eq(safetensors_unlisted(s), 2);
    cr_assert_str_eq(path_base(safetensors_find(s, "w")->file), "one.safetensors");
    cr_assert_str_eq(path_base(safetensors_find(s, "x")->file), "two.safetensors");
    cr_assert_null(safetensors_find(s, "extra"));
    safetensors_close(s);

    /* the single file goes before the index, as in transformers */
    put_one("model.safetensors", "single", "y");
    cr_assert_eq(safetensors_open(&s, dir, &err), OK, "%s", err.line);
    cr_assert_not_null(safetensors_find(s, "single"));
    safetensors_close(s);
}

Test(shards, bad_indexes)
{
    put_one("one.safetensors", "w", "v");
    static const struct {
        const char *index, *want;
    } bad[] = {
        {"{", "invalid JSON"},
        {"[]", "'weight_map' is missing or no object"},
        {"{\"metadata\":{}}", "'weight_map' is missing or no object"},
        {"{\"weight_map\":{\"w\":1}}",
         "weight_map: 'w': needs the name of a file in the same folder"},
        {"{\"weight_map\":{\"w\":\"../one.safetensors\"}}", "got '../one.safetensors'"},
        {"{\"weight_map\":{\"w\":\"/etc/passwd\"}}", "got '/etc/passwd'"},
        {"{\"weight_map\":{\"w\":\"a\\\\b\"}}", "needs the name of a file"},
        {"{\"weight_map\":{\"w\":\"..\"}}", "needs the name of a file"},
        {"{\"weight_map\":{\"w\":\"\"}}", "needs the name of a file"},
        {"{\"weight_map\":{\"w\":\"one.safetensors\\u0000\"}}", "needs the name of a file"},
        {"{\"weight_map\":{\"q\":\"one.safetensors\"}}",
         "weight_map: 'q' should be in one.safetensors, which does not have it"},
        {"{\"weight_map\":{\"w\":\"absent.safetensors\"}}", "absent.safetensors: cannot open"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put_index(bad[i].index);
        SafeTensors *s = NULL;
        Err err = {0};
        cr_expect_eq(safetensors_open(&s, dir, &err), E_INPUT, "%s", bad[i].index);
        cr_expect(strstr(err.line, bad[i].want), "%s", err.line);
        safetensors_close(s);
    }
}

Test(shards, a_folder_without_weights)
{
    SafeTensors *s = NULL;
    Err err = {0};
    cr_assert_eq(safetensors_open(&s, dir, &err), E_INPUT);
    cr_assert(strstr(err.line, "has neither model.safetensors nor"), "%s", err.line);
    put("pytorch_model.bin", "x", 1);
    cr_assert_eq(safetensors_open(&s, dir, &err), E_INPUT);
    cr_assert(strstr(err.line, "pytorch_model.bin is not read"), "%s", err.line);
}
