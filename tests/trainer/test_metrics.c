/* metrics.jsonl: keys, what a resumed run cuts off; what a person sees. */
#include "base/fs.h"
#include "base/json.h"
#include "base/str.h"
#include "tests/support/tmp.h"
#include "trainer/progress.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static const StepRecord record = {.step = 12,
                                  .epoch = 0.25,
                                  .loss = 1.25,
                                  .grad_norm = 0.5,
                                  .lr = 1e-4,
                                  .tokens = 1000,
                                  .step_time = 0.5,
                                  .consumed_samples = 96,
                                  .peak_bytes = 2048,
                                  .allocated_bytes = 1024};

Test(metrics, line_has_exactly_these_keys)
{
    StrBuf b = {0};
    metrics_step_line(&b, &record);
    cr_assert_str_eq(
        b.data,
        "{\"step\": 12, \"epoch\": 0.25, \"loss\": 1.25, \"grad_norm\": 0.5, \"lr\": 0.0001, "
        "\"tokens\": 1000, \"tokens_per_s\": 2000, \"step_time\": 0.5, "
        "\"consumed_samples\": 96, \"peak_bytes\": 2048, \"allocated_bytes\": 1024}\n");
    strbuf_clear(&b);
}

Test(metrics, resumed_run_cuts_off_what_it_will_write_anew)
{
    char *dir = tmp_dir(), *path = path_join(dir, "metrics.jsonl"), *text;
    const char *old =
        "{\"step\": 1, \"loss\": 3}\n{\"step\": 2, \"loss\": 2}\n"
        "{\"step\": 2, \"eval_loss\": 5}\n{\"step\": 3, \"loss\": 1}\n{\"step\": 4, \"lo";
    Err err = {0};
    Log log = {0};
    TrainConfig c = {.output = dir, .log_every = 1};
    Metrics *m;
    cr_assert_eq(file_write_atomic(path, old, strlen(old), &err), OK);
    cr_assert_eq(metrics_open(&m, &c, 2, 10, &log, false, &err), OK, "%s", err.line);
    StepRecord r = record;
    r.step = 3;
    metrics_step(m, &r);
    cr_assert_eq(metrics_close(m, &err), OK, "%s", err.line);
    cr_assert_eq(file_read(&text, NULL, path, &err), OK);
    const char *kept =
        "{\"step\": 1, \"loss\": 3}\n{\"step\": 2, \"loss\": 2}\n{\"step\": 2, \"eval_loss\": 5}\n"
        "{\"step\": 3, \"epoch\": 0.25,";
    cr_assert(str_starts(text, kept), "%s", text);
    free(text);
    free(path);
    tmp_dir_remove(dir);
}

Test(progress, bar_fits_the_terminal)
{
    for (int width = 20; width <= 200; width += 9) {
        StrBuf b = {0};
        progress_bar(&b, &record, 100, 75, width);
        cr_assert_lt(b.len, (size_t)width, "width %d: %s", width, b.data);
        strbuf_clear(&b);
    }
    StrBuf b = {0};
    progress_bar(&b, &record, 100, 75, 120);
    cr_assert_str_eq(
        b.data, "[===>                          ] 12/100  loss 1.2500  lr 1.00e-04  norm 0.500  "
                "2.0k tok/s  eta 1m15s");
    strbuf_clear(&b);
}

Test(progress, numbers_are_short)
{
    struct {
        double v;
        const char *count, *time;
    } cases[] = {{0, "0", "0s"},          {59.4, "59", "59s"},     {999, "999", "16m39s"},
                 {3600, "3.6k", "1h00m"}, {12345, "12k", "3h25m"}, {2.5e6, "2.5M", "694h26m"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        StrBuf a = {0}, b = {0};
        progress_count(&a, cases[i].v);
        progress_time(&b, cases[i].v);
        cr_expect_str_eq(a.data, cases[i].count);
        cr_expect_str_eq(b.data, cases[i].time);
        strbuf_clear(&a);
        strbuf_clear(&b);
    }
}
