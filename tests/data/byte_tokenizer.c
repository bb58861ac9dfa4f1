/* Writes tokenizer.json and tokenizer_config.json. */
#include "tests/data/byte_tokenizer.h"

#include "base/fs.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>

static const char *const SPECIALS[] = {
    "<s>",        "</s>",         "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>", "<|im_start|>", "<|im_end|>",          "<pad>"};

/* GPT-2's alphabet: how a byte is written in a byte-level vocabulary. */
static uint32_t letter(int byte)
{
    int n = 0;
    for (int b = 0; b <= byte; b++) {
        bool plain = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        if (b == byte) return plain ? (uint32_t)b : 256u + (uint32_t)n;
        n += !plain;
    }
    return 0;
}

static void put_letters(StrBuf *b, const char *bytes)
{
    StrBuf s = {0};
    for (; *bytes; bytes++) {
        char utf8[4];
        strbuf_append(&s, utf8, (size_t)utf8_encode(letter((unsigned char)*bytes), utf8));
    }
    json_write_string(b, s.data, s.len);
    strbuf_clear(&s);
}

static char *tokenizer_json(int flags)
{
    StrBuf b = {0};
    strbuf_puts(&b, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[");
    for (int i = 0; i < 8; i++)
        strbuf_printf(&b,
                      "%s{\"id\":%d,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,"
                      "\"rstrip\":false,\"normalized\":false,\"special\":true}",
                      i ? "," : "", 256 + i, SPECIALS[i]);
    strbuf_puts(&b, "],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\","
                    "\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false},"
                    "\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\","
                    "\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true},"
                    "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"
                    "\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,"
                    "\"fuse_unk\":false,\"byte_fallback\":false,\"vocab\":{");
    for (int i = 0; i < 256; i++) {
        char utf8[4], bytes[2] = {(char)i, 0};
        if (i > 0) {
            strbuf_putc(&b, ',');
            put_letters(&b, bytes);
        } else {
            json_write_string(&b, utf8, (size_t)utf8_encode(letter(0), utf8));
        }
        strbuf_printf(&b, ":%d", i);
    }
    for (int i = 0; i < 8; i++)
        strbuf_printf(&b, ",\"%s\":%d", SPECIALS[i], 256 + i);
    strbuf_putc(&b, ',');
    put_letters(&b, "\n\n");
    strbuf_printf(&b, ":%d,\":A\":%d},\"merges\":[", BYTE_NEWLINES, BYTE_COLON_A);
    if (flags & BYTE_MERGES) {
        put_letters(&b, "\n");
        b.len--; /* open the string again: "Ċ" + " Ċ" */
        strbuf_puts(&b, " \xC4\x8A\",\": A\"");
    }
    strbuf_puts(&b, "]}}");
    return strbuf_take(&b);
}

static Status put(const char *dir, const char *name, const char *text, Err *err)
{
    char *path = path_join(dir, name);
    Status s = file_write_atomic(path, text, strlen(text), err);
    free(path);
    return s;
}

Status byte_tokenizer_make(Tokenizer **out, const char *dir, int flags, Err *err)
{
    char *home = path_join(dir, "tokenizer");
    char *json = tokenizer_json(flags);
    char *config = str_format(
        "{\"bos_token\":%s,\"eos_token\":\"</s>\",\"pad_token\":\"<pad>\",\"chat_template\":%s}",
        flags & BYTE_NO_BOS ? "null" : "\"<s>\"",
        flags & BYTE_QWEN
            ? "\"{% for message in messages %}{% if loop.first and messages[0].role != 'system' %}"
              "{{ '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful "
              "assistant.<|im_end|>\\n' }}{% endif %}{{ '<|im_start|>' + message['role'] + '\\n' + "
              "message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}\""
            : "null");
    Status s = dir_make(home, err);
    if (s == OK) s = put(home, "tokenizer.json", json, err);
    if (s == OK) s = put(home, "tokenizer_config.json", config, err);
    if (s == OK) s = tokenizer_load(out, home, err);
    free(json);
    free(config);
    free(home);
    return s;
}
