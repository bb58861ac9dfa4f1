/* TensorBoard's event files, written by hand: four kinds of protobuf field are all that it takes. */
#include "trainer/tensorboard.h"

#include "base/fs.h"
#include "base/hash.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- records ---------------------------------------------------------------------------------- */

enum { WIRE_VARINT = 0, WIRE_F64 = 1, WIRE_BYTES = 2, WIRE_F32 = 5 };
enum { EVENT_WALL_TIME = 1, EVENT_STEP = 2, EVENT_FILE_VERSION = 3, EVENT_SUMMARY = 5 };
enum { SUMMARY_VALUE = 1, VALUE_TAG = 1, VALUE_SIMPLE = 2 };

static void put_le(StrBuf *b, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        strbuf_putc(b, (char)(v >> (8 * i) & 0xFF));
}

static void put_varint(StrBuf *b, uint64_t v)
{
    while (v >= 0x80) {
        strbuf_putc(b, (char)((v & 0x7F) | 0x80));
        v >>= 7;
    }
    strbuf_putc(b, (char)v);
}

static void put_key(StrBuf *b, int field, int wire)
{
    put_varint(b, (uint64_t)(field << 3 | wire));
}

static void put_f64(StrBuf *b, int field, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    put_key(b, field, WIRE_F64);
    put_le(b, bits, 8);
}

static void put_f32(StrBuf *b, int field, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    put_key(b, field, WIRE_F32);
    put_le(b, bits, 4);
}

static void put_bytes(StrBuf *b, int field, const char *data, size_t n)
{
    put_key(b, field, WIRE_BYTES);
    put_varint(b, n);
    strbuf_append(b, data, n);
}

/* A sum over data that holds sums would be weak: TFRecord rotates and offsets it. */
static uint32_t masked_crc(const void *data, size_t n)
{
    uint32_t crc = crc32c(0, data, n);
    return (crc >> 15 | crc << 17) + 0xA282EAD8u;
}

static void put_record(StrBuf *out, const StrBuf *event)
{
    StrBuf length = {0};
    put_le(&length, event->len, 8);
    strbuf_append(out, length.data, length.len);
    put_le(out, masked_crc(length.data, length.len), 4);
    strbuf_append(out, event->data, event->len);
    put_le(out, masked_crc(event->data, event->len), 4);
    strbuf_clear(&length);
}

void event_version_record(StrBuf *out, double wall_time)
{
    static const char version[] = "brain.Event:2";
    StrBuf event = {0};
    put_f64(&event, EVENT_WALL_TIME, wall_time);
    put_bytes(&event, EVENT_FILE_VERSION, version, strlen(version));
    put_record(out, &event);
    strbuf_clear(&event);
}

void event_scalar_record(StrBuf *out, double wall_time, int64_t step, const char *tag, float value)
{
    StrBuf v = {0}, summary = {0}, event = {0};
    put_bytes(&v, VALUE_TAG, tag, strlen(tag));
    put_f32(&v, VALUE_SIMPLE, value);
    put_bytes(&summary, SUMMARY_VALUE, v.data, v.len);
    put_f64(&event, EVENT_WALL_TIME, wall_time);
    put_key(&event, EVENT_STEP, WIRE_VARINT);
    put_varint(&event, (uint64_t)step);
    put_bytes(&event, EVENT_SUMMARY, summary.data, summary.len);
    put_record(out, &event);
    strbuf_clear(&v);
    strbuf_clear(&summary);
    strbuf_clear(&event);
}

/* ---- files ------------------------------------------------------------------------------------ */

struct EventFile {
    FILE *f;
    char *path;
    int error;
};

static double wall_time(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void append(EventFile *f, StrBuf *record)
{
    if (fwrite(record->data, 1, record->len, f->f) != record->len && !f->error) f->error = errno;
    strbuf_clear(record);
}

Status event_file_open(EventFile **out, const char *dir, Err *err)
{
    TRY(dir_make(dir, err));
    char host[128] = "host";
    gethostname(host, sizeof host - 1);
    double now = wall_time();
    char *path = str_format("%s/events.out.tfevents.%010lld.%s.%ld", dir, (long long)now, host,
                            (long)getpid());
    FILE *file = fopen(path, "ab");
    if (!file) {
        Status s = err_set(err, E_FAILED, "%s: %s", path, strerror(errno));
        free(path);
        return s;
    }
    EventFile *f = xcalloc(1, sizeof *f);
    *f = (EventFile){.f = file, .path = path};
    StrBuf record = {0};
    event_version_record(&record, now);
    append(f, &record);
    *out = f;
    return OK;
}

void event_file_scalar(EventFile *f, int64_t step, const char *tag, double value)
{
    StrBuf record = {0};
    event_scalar_record(&record, wall_time(), step, tag, (float)value);
    append(f, &record);
}

void event_file_flush(EventFile *f)
{
    if (fflush(f->f) != 0 && !f->error) f->error = errno;
}

Status event_file_close(EventFile *f, Err *err)
{
    if (!f) return OK;
    if (fclose(f->f) != 0 && !f->error) f->error = errno;
    Status s = f->error ? err_set(err, E_FAILED, "%s: %s", f->path, strerror(f->error)) : OK;
    free(f->path);
    free(f);
    return s;
}
