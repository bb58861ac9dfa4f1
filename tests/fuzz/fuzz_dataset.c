/* Data files: any bytes, read in any format.  The first two bytes choose the settings, the rest is the
 * file.  What was accepted must hold together: tokens, labels, batches, the report. */
#define _GNU_SOURCE
#include "data/loader.h"
#include "data/questions.h"
#include "tests/data/byte_tokenizer.h"
#include "tests/fuzz/fuzz.h"

#include "base/fs.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Made once: it is the files that are foreign here. */
static Tokenizer *tokenizer(void)
{
    static Tokenizer *t;
    if (t) return t;
    char dir[] = "/tmp/lorac-fuzz-XXXXXX";
    Err err = {0};
    ASSERT(mkdtemp(dir), "cannot make %s", dir);
    ASSERT(byte_tokenizer_make(&t, dir, BYTE_MERGES, &err) == OK, "%s", err.line);
    ASSERT(dir_remove(dir, &err) == OK, "%s", err.line);
    return t;
}

static void check_set(const Dataset *d, const DataOpts *opts)
{
    const DataReport *r = dataset_report(d);
    int64_t tokens = 0, trained = 0;
    for (int64_t i = 0; i < dataset_size(d); i++) {
        Document doc = dataset_document(d, i);
        ASSERT(doc.n >= 2 && doc.at.line >= 1, "document of %lld", (long long)doc.n);
        ASSERT(opts->packing == PACK_CONCAT || doc.n <= opts->max_length, "%lld tokens",
               (long long)doc.n);
        for (int64_t k = 0; k < doc.n; k++) {
            ASSERT(doc.ids[k] >= 0 && doc.ids[k] < BYTE_VOCAB, "id %d", (int)doc.ids[k]);
            ASSERT(doc.labels[k] >= -100 && doc.labels[k] < BYTE_VOCAB, "label %d",
                   (int)doc.labels[k]);
            trained += k > 0 && doc.labels[k] != -100;
        }
        tokens += doc.n;
    }
    ASSERT(tokens == r->tokens && trained == r->trained_tokens, "%lld tokens", (long long)tokens);
    Loader *l = loader_new(d, opts, 1, 2);
    HostBatch b = {0};
    int64_t real = 0;
    for (int64_t s = 0; s < loader_steps(l, 0); s++) {
        StepInfo step = loader_step(l, 0, s);
        loader_rows_fill(l, 0, step.first_row, step.n_rows, &b);
        ASSERT(b.n_trained == step.n_trained && b.n_real == step.n_tokens, "step %lld",
               (long long)s);
        real += b.n_real;
    }
    ASSERT(opts->packing == PACK_CONCAT ? real <= tokens : real == tokens, "%lld of %lld tokens",
           (long long)real, (long long)tokens);
    host_batch_clear(&b);
    loader_free(l);
}

static void check_problems(Problems *p)
{
    ASSERT(p->n > 0, "an error without a line");
    for (int i = 0; i < p->n; i++)
        ASSERT(p->lines[i][0] && !strchr(p->lines[i], '\n'), "%s", p->lines[i]);
    problems_clear(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) return 0;
    const Tokenizer *t = tokenizer();
    char path[64], prompt[] = "<s>{text}{{{prompt}}}";
    int fd = memfd_create("data", 0);
    ASSERT(fd >= 0 && write(fd, data + 2, size - 2) == (ssize_t)(size - 2), "memfd");
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    DataSource src = {.path = path,
                      .format = (DataFormat)(data[0] % (DATA_TOKENS + 1)),
                      .chat = (ChatTemplate)(data[0] / 8 % (TEMPLATE_LLAMA31 + 1)),
                      .weight = 1};
    if (src.chat == TEMPLATE_PROMPT) src.prompt = prompt;
    DataOpts opts = {.train = &src,
                     .n_train = 1,
                     .train_on = (TrainOn)(data[1] % 3),
                     .packing = (Packing)(data[1] / 4 % 3),
                     .overlong = (Overlong)(data[1] / 16 % 3),
                     .max_length = data[1] & 64 ? 8 : 4096,
                     .allow_untrained = data[1] & 128,
                     .shuffle = true};
    Log log = {0};
    Problems p = {0};
    Dataset *d, *eval;
    if (dataset_open(&d, &eval, &opts, t, NULL, &log, &p) == OK) {
        check_set(d, &opts);
        dataset_free(d);
    } else {
        check_problems(&p);
    }
    Questions q;
    if (questions_open(&q, &src, 1, t, NULL, &p) == OK)
        questions_clear(&q);
    else
        check_problems(&p);
    close(fd);
    return 0;
}
