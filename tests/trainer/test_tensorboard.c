/* Event files: the bytes that TensorFlow writes for the same records. */
#include "base/fs.h"
#include "base/str.h"
#include "tests/support/tmp.h"
#include "trainer/tensorboard.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static char *hex(const StrBuf *b)
{
    StrBuf out = {0};
    for (size_t i = 0; i < b->len; i++)
        strbuf_printf(&out, "%02x", (unsigned char)b->data[i]);
    return strbuf_take(&out);
}

Test(tensorboard, first_record)
{
    StrBuf b = {0};
    event_version_record(&b, 1700000000.0);
    char *got = hex(&b);
    cr_assert_str_eq(got, "1800000000000000a37f4b22"
                          "0900000040fc54d9411a0d627261696e2e4576656e743a32"
                          "eced8f9d");
    free(got);
    strbuf_clear(&b);
}

Test(tensorboard, scalar)
{
    StrBuf b = {0};
    event_scalar_record(&b, 1700000001.0, 10, "train/loss", 0.5f);
    char *got = hex(&b);
    cr_assert_str_eq(got, "200000000000000029eda950"
                          "0900004040fc54d941100a2a130a110a0a747261696e2f6c6f7373150000003f"
                          "a7e63d51");
    free(got);
    strbuf_clear(&b);
}

Test(tensorboard, steps_beyond_one_byte_are_varints)
{
    StrBuf b = {0};
    event_scalar_record(&b, 0, 300, "x", 0);
    /* behind length, its sum and the wall time: key 0x10, then 300 = 0xAC 0x02 */
    cr_assert_eq(memcmp(b.data + 12 + 9, "\x10\xAC\x02", 3), 0);
    strbuf_clear(&b);
}

Test(tensorboard, file_holds_the_records_in_order)
{
    char *dir = tmp_dir();
    Err err = {0};
    EventFile *f;
    cr_assert_eq(event_file_open(&f, dir, &err), OK, "%s", err.line);
    event_file_scalar(f, 1, "train/loss", 2.0);
    event_file_scalar(f, 2, "train/loss", 1.0);
    cr_assert_eq(event_file_close(f, &err), OK, "%s", err.line);
    char **names;
    int n;
    cr_assert_eq(dir_list(&names, &n, dir, &err), OK);
    cr_assert_eq(n, 1);
    cr_assert(str_starts(names[0], "events.out.tfevents."));
    char *path = path_join(dir, names[0]), *data;
    size_t len;
    cr_assert_eq(file_read(&data, &len, path, &err), OK);
    size_t records = 0, at = 0;
    while (at < len) {
        cr_assert_leq(at + 16, len);
        at += 16 + (unsigned char)data[at]; /* all shorter than 256 bytes */
        records++;
    }
    cr_assert_eq(at, len);
    cr_assert_eq(records, 3);
    free(data);
    free(path);
    dir_list_free(names, n);
    tmp_dir_remove(dir);
}
