/* Prompts and chats in the ids of the real Llama tokenizers, which lie beside the project on some
 * machines.  The ids come from the reference facts (formats.md 11), not from here. */
#include "data/chat_template.h"
#include "tests/data/data_support.h"
#include "tests/support/shared.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static Tokenizer *shared_tokenizer(const char *name)
{
    char *path = shared_or_skip(name);
    Tokenizer *t = NULL;
    Err err = {0};
    cr_assert(tokenizer_load(&t, path, &err) == OK, "%s", err.line);
    free(path);
    return t;
}

/* want: 0 at the end. */
static void expect_ids(const char *what, const int32_t *got, int64_t n, const int32_t *want)
{
    int64_t m = 0;
    while (want[m] != 0)
        m++;
    cr_expect_eq(n, m, "%s: %d ids, want %d", what, (int)n, (int)m);
    for (int64_t i = 0; i < n && i < m; i++)
        cr_expect_eq(got[i], want[i], "%s: id %d is %d, want %d", what, (int)i, got[i], want[i]);
}

Test(chat_ids, llama3)
{
    Tokenizer *t = shared_tokenizer("data/tokenizers/llama3");
    static const struct {
        ChatTemplate kind;
        int32_t want[64];
    } cases[] = {
        {TEMPLATE_LLAMA3,
         {128000, 128006, 882, 128007, 271, 13347, 128009, 128006, 78191, 128007, 271, 0}},
        {TEMPLATE_LLAMA31,
         {128000, 128006, 9125,   128007, 271,    38766,  1303,   33025, 2696,   25,
          6790,   220,    2366,   18,     198,    15724,  2696,   25,    220,    1627,
          10263,  220,    2366,   19,     271,    128009, 128006, 882,   128007, 271,
          13347,  128009, 128006, 78191,  128007, 271,    0}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Chat chat;
        Err err = {0};
        TokenBuf ids = {0};
        ChatMessage hi = {.role = "user", .text = "Hi", .len = 2};
        cr_assert(chat_open(&chat, cases[i].kind, t, &err) == OK, "%s", err.line);
        cr_assert(chat_prompt(&chat, t, &hi, 1, &ids, &err) == OK, "%s", err.line);
        expect_ids(chat_template_name(cases[i].kind), ids.ids, ids.n, cases[i].want);
        tokenbuf_clear(&ids);
    }
    Chat chat;
    Err err = {0};
    cr_expect(chat_open(&chat, TEMPLATE_CHATML, t, &err) == E_INPUT);
    cr_expect_str_eq(err.line, "the template 'chatml' needs the token <|im_start|>, which this "
                               "model's tokenizer does not have");
    tokenizer_free(t);
}

/* The first document of one row. */
static void expect_document(const char *dir, const Tokenizer *t, DataFormat format, const char *row,
                            int64_t n, int64_t n_prompt, int64_t from, const int32_t *want)
{
    DataSource src = {.path = put_file(dir, "a", row), .format = format, .weight = 1};
    DataOpts opts = {.max_length = 4096};
    Dataset *d;
    Log log = {0};
    Problems p = {0};
    cr_assert(dataset_open_sources(&d, &src, 1, &opts, t, NULL, &log, &p) == OK, "%s",
              p.n ? p.lines[0] : "");
    Document doc = dataset_document(d, 0);
    if (n > 0) cr_expect_eq(doc.n, n, "%d tokens", (int)doc.n);
    for (int64_t i = 0; i < doc.n; i++)
        cr_expect_eq(doc.labels[i], i < n_prompt ? -100 : doc.ids[i], "label %d", (int)i);
    expect_ids(row, doc.ids + from, doc.n - from, want);
    dataset_free(d);
    free(src.path);
}

static const char FRUITS[] = "{\"instruction\":\"List three fruits.\",\"output\":\"Apple\"}";

Test(chat_ids, prompts_of_llama2)
{
    Tokenizer *t = shared_tokenizer("data/tokenizers/llama2");
    char *dir = tmp_dir();
    /* BOS, 39 of the prompt, "Ap" "ple", EOS */
    expect_document(dir, t, DATA_ALPACA, FRUITS, 43, 40, 36,
                    (const int32_t[]){2277, 29937, 13291, 29901, 2052, 280, 2, 0});
    expect_document(dir, t, DATA_SAMSUM, "{\"dialogue\":\"A: Hi\",\"summary\":\"hello\"}", 19, 17,
                    0, (const int32_t[]){1,     6991,  3034,  675,   445, 7928, 29901,
                                         13,    29909, 29901, 6324,  13,  5634, 13,
                                         26289, 29901, 13,    22172, 2,   0});
    tmp_dir_remove(dir);
    tokenizer_free(t);
}

Test(chat_ids, prompts_of_llama3)
{
    Tokenizer *t = shared_tokenizer("data/tokenizers/llama3");
    char *dir = tmp_dir();
    expect_document(dir, t, DATA_ALPACA, FRUITS, 31, 29, 25,
                    (const int32_t[]){382, 14711, 6075, 25, 27665, 128001, 0});
    tmp_dir_remove(dir);
    tokenizer_free(t);
}
