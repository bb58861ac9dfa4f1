/* Every format and template, as text with the trained stretches marked.  The expected texts are typed from
 * the templates' own definitions (Stanford Alpaca, llama-recipes, the models' Jinja). */
#include "tests/data/data_support.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define ALPACA                                                                                     \
    "Below is an instruction that describes a task. Write a response that appropriately "          \
    "completes the request.\n\n### Instruction:\n"
#define ALPACA_IN                                                                                  \
    "Below is an instruction that describes a task, paired with an input that provides further "   \
    "context. Write a response that appropriately completes the request.\n\n### Instruction:\n"

typedef struct Case {
    const char *name;
    DataFormat format;
    ChatTemplate chat;
    const char *row;
    const char *want; /* a document, or "!" and the problem */
    TrainOn train_on;
    const char *prompt, *system;
    FieldMap fields[2];
    int flags; /* of the tokenizer */
} Case;

#define CHAT                                                                                       \
    "{\"messages\":[{\"role\":\"user\",\"content\":\" Hi \"},{\"role\":\"assistant\","             \
    "\"content\":\" Yo\\n\"},{\"role\":\"user\",\"content\":\"Bye\"},{\"role\":\"assistant\","     \
    "\"content\":\"Ta\"}]}"
#define CHAT_SYSTEM                                                                                \
    "{\"messages\":[{\"role\":\"system\",\"content\":\" Be brief. \"},{\"role\":\"user\","         \
    "\"content\":\" Hi \"},{\"role\":\"assistant\",\"content\":\"Yo\"}]}"

static const Case CASES[] = {
    /* --- prompts --- */
    {"alpaca", DATA_ALPACA, 0, "{\"instruction\":\"Add.\",\"input\":\"1 2\",\"output\":\"3\"}",
     "<s>" ALPACA_IN "Add.\n\n### Input:\n1 2\n\n### Response:«3</s>»"},
    {"alpaca, empty input", DATA_ALPACA, 0,
     "{\"instruction\":\"Add.\",\"input\":\"\",\"output\":\"3\"}",
     "<s>" ALPACA "Add.\n\n### Response:«3</s>»"},
    {"alpaca, no input", DATA_ALPACA, 0, "{\"instruction\":\"Add.\",\"output\":\"3\"}",
     "<s>" ALPACA "Add.\n\n### Response:«3</s>»"},
    {"alpaca, null input", DATA_ALPACA, 0,
     "{\"instruction\":\"Add.\",\"input\":null,\"output\":\"3\"}",
     "<s>" ALPACA "Add.\n\n### Response:«3</s>»"},
    {"alpaca, everything", DATA_ALPACA, 0, "{\"instruction\":\"Add.\",\"output\":\"3\"}",
     "<s>«" ALPACA "Add.\n\n### Response:3</s>»", TRAIN_ON_ALL},
    {"alpaca, no BOS", DATA_ALPACA, 0, "{\"instruction\":\"Add.\",\"output\":\"3\"}",
     ALPACA "Add.\n\n### Response:«3</s>»", .flags = BYTE_NO_BOS},
    {"alpaca, no answer", DATA_ALPACA, 0, "{\"instruction\":\"Add.\",\"output\":\"\"}",
     "<s>" ALPACA "Add.\n\n### Response:«</s>»"},
    {"alpaca, a token over the border", DATA_ALPACA, 0,
     "{\"instruction\":\"Add.\",\"output\":\"Ab\"}",
     /* the prompt alone ends with ':', so the merged token counts as prompt and only it */
     "<s>" ALPACA "Add.\n\n### Response:A«b</s>»", .flags = BYTE_MERGES},
    {"alpaca, what a user writes is text", DATA_ALPACA, 0,
     "{\"instruction\":\"<s></s>\",\"output\":\"<|eot_id|>\"}",
     "<s>" ALPACA "<s></s>\n\n### Response:«<|eot_id|></s>»"},
    {"alpaca, mapped", DATA_ALPACA, 0, "{\"q\":\"Add.\",\"a\":\"3\"}",
     "<s>" ALPACA "Add.\n\n### Response:«3</s>»",
     .fields = {{"instruction", "q"}, {"output", "a"}}},
    {"samsum", DATA_SAMSUM, 0,
     "{\"id\":\"1\",\"dialogue\":\"A: Hi\\r\\nB: Yo\",\"summary\":\"Hi.\"}",
     "<s>Summarize this dialog:\nA: Hi\r\nB: Yo\n---\nSummary:\n«Hi.</s>»"},
    {"samsum, apart", DATA_SAMSUM, 0, "{\"dialogue\":\"A\",\"summary\":\"\\nHi.\"}",
     "<s>Summarize this dialog:\nA\n---\nSummary:\n«\nHi.</s>»", .flags = BYTE_MERGES},
    {"samsum, everything", DATA_SAMSUM, 0, "{\"dialogue\":\"A\",\"summary\":\"B\"}",
     "<s>«Summarize this dialog:\nA\n---\nSummary:\nB</s>»", TRAIN_ON_ALL},
    {"completion", DATA_COMPLETION, 0, "{\"prompt\":\"1+1=\",\"completion\":\"2\"}",
     "<s>1+1=«2</s>»"},
    {"text", DATA_TEXT, 0, "{\"text\":\"Once.\"}", "<s>«Once.</s>»"},
    {"tokens", DATA_TOKENS, 0, "{\"input_ids\":[256,65,66,257],\"labels\":[-100,-100,66,257]}",
     "<s>A«B</s>»"},
    {"tokens, as they are", DATA_TOKENS, 0, "{\"input_ids\":[65,66]}", "«AB»"},
    {"raw alpaca", DATA_ALPACA, TEMPLATE_RAW,
     "{\"instruction\":\"Add \",\"input\":\"1 2\",\"output\":\"3\"}", "<s>Add 1 2«3</s>»"},
    {"raw samsum", DATA_SAMSUM, TEMPLATE_RAW, "{\"dialogue\":\"A\",\"summary\":\"B\"}",
     "<s>A«B</s>»"},
    {"raw chat", DATA_MESSAGES, TEMPLATE_RAW, CHAT, "<s> Hi « Yo\n</s>»Bye«Ta</s>»",
     TRAIN_ON_ASSISTANT},
    {"custom", DATA_COMPLETION, TEMPLATE_PROMPT,
     "{\"prompt\":\"x\",\"n\":3,\"ok\":true,\"completion\":\"y\"}", "<s>{x} 3 true|«y</s>»",
     .prompt = "{{{prompt}}} {n} {ok}|"},
    {"custom, special tokens", DATA_COMPLETION, TEMPLATE_PROMPT,
     "{\"prompt\":\"<|im_end|>\",\"completion\":\"y\"}",
     "<s>a <|im_start|>user\n<|im_end|><|im_end|>\n«y</s>»",
     .prompt = "<s>a <|im_start|>user\n{prompt}<|im_end|>\n"},
    {"custom, mapped", DATA_COMPLETION, TEMPLATE_PROMPT, "{\"q\":\"x\",\"a\":\"y\"}",
     "<s>x:«y</s>»", .prompt = "{prompt}:", .fields = {{"prompt", "q"}, {"completion", "a"}}},

    /* --- chats --- */
    {"llama2", DATA_MESSAGES, TEMPLATE_LLAMA2, CHAT,
     "<s>[INST] Hi [/INST] Yo </s><s>[INST] Bye [/INST]« Ta </s>»"},
    {"llama2, assistant", DATA_MESSAGES, TEMPLATE_LLAMA2, CHAT,
     "<s>[INST] Hi [/INST]« Yo </s>»<s>[INST] Bye [/INST]« Ta </s>»", TRAIN_ON_ASSISTANT},
    {"llama2, everything", DATA_MESSAGES, TEMPLATE_LLAMA2, CHAT,
     "<s>«[INST] Hi [/INST] Yo </s>»<s>«[INST] Bye [/INST] Ta </s>»", TRAIN_ON_ALL},
    {"llama2, system", DATA_MESSAGES, TEMPLATE_LLAMA2, CHAT_SYSTEM,
     "<s>[INST] <<SYS>>\n Be brief. \n<</SYS>>\n\n Hi [/INST]« Yo </s>»"},
    {"llama3", DATA_MESSAGES, TEMPLATE_LLAMA3, CHAT,
     "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\nYo<|eot_id|>"
     "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\n«Ta<|eot_id|>»"},
    {"llama3, assistant", DATA_MESSAGES, TEMPLATE_LLAMA3, CHAT,
     "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\n«Yo<|eot_id|>»"
     "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\n«Ta<|eot_id|>»",
     TRAIN_ON_ASSISTANT},
    {"llama3, system", DATA_MESSAGES, TEMPLATE_LLAMA3, CHAT_SYSTEM,
     "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
     "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\n«Yo<|eot_id|>»"},
    {"llama3, system beside the conversation", DATA_SHAREGPT, TEMPLATE_LLAMA3,
     "{\"system\":\"Be "
     "brief.\",\"tools\":\"\",\"conversations\":[{\"from\":\"human\",\"value\":\"Hi\"},"
     "{\"from\":\"gpt\",\"value\":\"Yo\"}]}",
     "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
     "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\n«Yo<|eot_id|>»"},
    {"alpaca, nothing before it", DATA_ALPACA, TEMPLATE_RAW,
     "{\"instruction\":\"a\",\"output\":\"b\",\"system\":\"\",\"history\":[]}", "<s>a«b</s>»"},
    {"llama3, system of the config", DATA_COMPLETION, TEMPLATE_LLAMA3,
     "{\"prompt\":\"Hi\",\"completion\":\"Yo\"}",
     "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
     "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\n«Yo<|eot_id|>»",
     .system = "S"},
    {"llama3.1", DATA_MESSAGES, TEMPLATE_LLAMA31, CHAT_SYSTEM,
     "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
     "Today Date: 26 Jul 2024\n\nBe brief.<|eot_id|>"
     "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\n«Yo<|eot_id|>»"},
    {"llama3, alpaca", DATA_ALPACA, TEMPLATE_LLAMA3,
     "{\"instruction\":\"Add.\",\"input\":\"1 2\",\"output\":\"3\"}",
     "<s><|start_header_id|>user<|end_header_id|>\n\nAdd.\n\n1 2<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\n«3<|eot_id|>»"},
    {"chatml", DATA_MESSAGES, TEMPLATE_CHATML, CHAT,
     "<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\n Yo\n<|im_end|>\n"
     "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n«Ta<|im_end|>\n»",
     .flags = BYTE_NO_BOS},
    {"chatml, a tokenizer with BOS", DATA_COMPLETION, TEMPLATE_CHATML,
     "{\"prompt\":\"Hi\",\"completion\":\"Yo\"}",
     "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n«Yo<|im_end|>\n»"},
    {"chatml, Qwen's system text", DATA_COMPLETION, TEMPLATE_CHATML,
     "{\"prompt\":\"Hi\",\"completion\":\"Yo\"}",
     "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful "
     "assistant.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
     "«Yo<|im_end|>\n»",
     .flags = BYTE_NO_BOS | BYTE_QWEN},
    {"chatml as the model's own template has it, without BOS", DATA_COMPLETION, TEMPLATE_CHATML,
     "{\"prompt\":\"Hi\",\"completion\":\"Yo\"}",
     "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful "
     "assistant.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
     "«Yo<|im_end|>\n»",
     .flags = BYTE_QWEN},
    {"chatml, a line end merges into the header's", DATA_COMPLETION, TEMPLATE_CHATML,
     "{\"prompt\":\"Hi\",\"completion\":\"\\nYo\"}",
     "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n\n«Yo<|im_end|>\n»",
     .flags = BYTE_NO_BOS | BYTE_MERGES},
    {"sharegpt", DATA_SHAREGPT, TEMPLATE_LLAMA2,
     "{\"conversations\":[{\"from\":\"human\",\"value\":\"Hi\"},{\"from\":\"gpt\",\"value\":"
     "\"Yo\"}]}",
     "<s>[INST] Hi [/INST]« Yo </s>»"},
    {"conversational completion", DATA_COMPLETION, TEMPLATE_LLAMA2,
     "{\"prompt\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"completion\":[{\"role\":"
     "\"assistant\",\"content\":\"Yo\"}]}",
     "<s>[INST] Hi [/INST]« Yo </s>»"},
    {"OpenAI's weight", DATA_MESSAGES, TEMPLATE_LLAMA2,
     "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":"
     "\"b\",\"weight\":0},{\"role\":\"user\",\"content\":\"c\"},{\"role\":\"assistant\","
     "\"content\":\"d\",\"weight\":1}]}",
     "<s>[INST] a [/INST] b </s><s>[INST] c [/INST]« d </s>»", TRAIN_ON_ASSISTANT},

    /* --- what is refused --- */
    {"no object", DATA_ALPACA, 0, "[[1]]",
     "!f:1: row 1: the row must be an object {...}, found array"},
    {"missing", DATA_ALPACA, 0, "{\"instruction\":\"a\",\"response\":\"b\"}",
     "!f:1: output: missing; the row has 'instruction', 'response'; name the right one (fields: "
     "{output: ...})"},
    {"nearly", DATA_ALPACA, 0, "{\"instruction\":\"a\",\"outputs\":\"b\"}",
     "!f:1: output: missing; did you mean 'outputs'? (fields: {output: outputs})"},
    {"wrong kind", DATA_SAMSUM, 0, "{\"dialogue\":[\"a\"],\"summary\":\"b\"}",
     "!f:1: dialogue: must be a string, found array"},
    {"twice", DATA_TEXT, 0, "{\"text\":\"a\",\"text\":\"b\"}",
     "!f:1: invalid JSON: duplicate object key near '\"text\"' (column 18)"},
    {"unknown field in a prompt", DATA_TEXT, TEMPLATE_PROMPT, "{\"text\":\"a\",\"x\":\"b\"}",
     "!f:1: y: missing; the row has 'text', 'x'; name the right one (fields: {y: ...})",
     .prompt = "{y}"},
    {"a list in a prompt", DATA_TEXT, TEMPLATE_PROMPT, "{\"text\":\"a\",\"x\":[]}",
     "!f:1: x: the prompt puts it in, so it must be a string, found array", .prompt = "{x}"},
    {"no messages", DATA_MESSAGES, TEMPLATE_LLAMA3, "{\"messages\":[]}",
     "!f:1: messages: is empty"},
    {"no list", DATA_MESSAGES, TEMPLATE_LLAMA3, "{\"messages\":\"x\"}",
     "!f:1: messages: must be an array of messages, found string"},
    {"no content", DATA_MESSAGES, TEMPLATE_LLAMA3, "{\"messages\":[{\"role\":\"user\"}]}",
     "!f:1: messages[0]: content: missing; the row has 'role'; name the right one (fields: "
     "{content: ...})"},
    {"role", DATA_MESSAGES, TEMPLATE_LLAMA3,
     "{\"messages\":[{\"role\":\"usr\",\"content\":\"a\"}]}",
     "!f:1: messages[0]: role: 'usr' is unknown; there are system, user (human) and assistant "
     "(gpt)"},
    {"tool", DATA_MESSAGES, TEMPLATE_LLAMA3,
     "{\"messages\":[{\"role\":\"tool\",\"content\":\"a\"}]}",
     "!f:1: messages[0]: role: 'tool': tools are not supported; leave such conversations out"},
    {"tools of the row", DATA_MESSAGES, TEMPLATE_LLAMA3,
     "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":[{\"name\":\"f\"}]}",
     "!f:1: tools: tools are not supported; leave such conversations out"},
    {"reasoning", DATA_MESSAGES, TEMPLATE_LLAMA3,
     "{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\",\"reasoning_content\":\"b\"}]}",
     "!f:1: messages[0]: reasoning_content: is not read; take it out, or put it into the content "
     "as "
     "the model writes it"},
    {"a turn that is not trained, by another name", DATA_SHAREGPT, TEMPLATE_LLAMA3,
     "{\"conversations\":[{\"from\":\"gpt\",\"value\":\"a\",\"train\":false}]}",
     "!f:1: conversations[0]: train: is not read; a turn that is not trained has weight 0"},
    {"two system messages", DATA_SHAREGPT, TEMPLATE_LLAMA3,
     "{\"system\":\"a\",\"conversations\":[{\"from\":\"system\",\"value\":\"b\"},"
     "{\"from\":\"gpt\",\"value\":\"c\"}]}",
     "!f:1: system: the conversation has such a message, too; take one of them out"},
    {"a system of an alpaca row that is no text", DATA_ALPACA, 0,
     "{\"instruction\":\"a\",\"output\":\"b\",\"system\":5}",
     "!f:1: system: is not read from alpaca rows; take it out, write a prompt with {system}, or "
     "make messages of the row"},
    {"earlier turns of an alpaca row", DATA_ALPACA, 0,
     "{\"instruction\":\"a\",\"output\":\"b\",\"history\":[[\"c\",\"d\"]]}",
     "!f:1: history: is not read from alpaca rows; take it out, write a prompt with {history}, or "
     "make messages of the row"},
    {"lists without a template", DATA_COMPLETION, 0,
     "{\"prompt\":[{\"role\":\"user\",\"content\":\"a\"}],\"completion\":\"b\"}",
     "!f:1: prompt: is a list of messages, which needs a chat template: llama2, llama3, llama3.1 "
     "or "
     "chatml"},
    {"order", DATA_MESSAGES, TEMPLATE_LLAMA2,
     "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\",\"content\":\"b\"}]}",
     "!f:1: turn 2: the role is user, and llama2's template wants assistant here: user and "
     "assistant in turns, a system message only in front"},
    {"no turn to train", DATA_MESSAGES, TEMPLATE_LLAMA3,
     "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}",
     "!f:1: the row trains on nothing; leave it out, or skip such rows with allow_untrained"},
    {"labels", DATA_TOKENS, 0, "{\"input_ids\":[1,2],\"labels\":[1]}",
     "!f:1: labels: has 1 entries, input_ids has 2; they must be as many"},
    {"no token", DATA_TOKENS, 0, "{\"input_ids\":[1,266]}",
     "!f:1: input_ids[1]: 266 is no token: the tokenizer has 0 to 265"},
    {"no label", DATA_TOKENS, 0, "{\"input_ids\":[1,2],\"labels\":[1,-1]}",
     "!f:1: labels[1]: -1 is no token: the tokenizer has 0 to 265, and -100 says not trained"},
    {"no integer", DATA_TOKENS, 0, "{\"input_ids\":[1,\"2\"]}",
     "!f:1: input_ids[1]: must be an integer, found string"},
    {"padding", DATA_TOKENS, 0, "{\"input_ids\":[1,2],\"attention_mask\":[1,0]}",
     "!f:1: attention_mask[1]: is 0, and rows are taken without padding; cut the padding off"},
    {"UTF-8", DATA_TEXT, 0, "{\"text\":\"\xC3(\"}",
     "!f:1: invalid JSON: unable to decode byte 0xc3 near '\"' (column 9)"},
    {"a row of many on a line", DATA_TEXT, 0, "[{\"text\":\"a\"}, {\"text\":1}]",
     "!f:1: row 2: text: must be a string, found integer"},
    {"JSON of many rows on a line", DATA_TEXT, 0, "[{\"text\":\"a\"}, {\"text\":}]",
     "!f:1: row 2: invalid JSON: unexpected token near '}' (column 9)"},
    {"trained on nothing, of many on a line", DATA_TOKENS, 0,
     "[{\"input_ids\":[1,2]},{\"input_ids\":[1,2],\"labels\":[-100,-100]}]",
     "!f:1: row 2: the row trains on nothing; leave it out, or skip such rows with "
     "allow_untrained"},
    /* of the source */
    {"chats need a template", DATA_MESSAGES, 0, CHAT,
     "!f (data set at line 7 of the config): template: the format 'messages' needs one: llama2, "
     "llama3, llama3.1, chatml or raw"},
    {"and get a hint", DATA_MESSAGES, 0, CHAT,
     "!f (data set at line 7 of the config): template: the format 'messages' needs one: llama2, "
     "llama3, llama3.1, chatml or raw; the model's own looks like chatml",
     .flags = BYTE_QWEN},
    {"no BOS for llama2", DATA_MESSAGES, TEMPLATE_LLAMA2, CHAT,
     "!f (data set at line 7 of the config): the template 'llama2' needs BOS and EOS, and this "
     "model's tokenizer does not have both",
     .flags = BYTE_NO_BOS},
    {"tokens have no template", DATA_TOKENS, TEMPLATE_LLAMA3, "{}",
     "!f (data set at line 7 of the config): template: the format 'tokens' is taken as it is and "
     "has none"},
    {"open brace", DATA_TEXT, TEMPLATE_PROMPT, "{}",
     "!f (data set at line 7 of the config): prompt: the '{' at character 2 does not begin a "
     "{field}; write '{{' for a brace",
     .prompt = "a{b"},
    {"closing brace", DATA_TEXT, TEMPLATE_PROMPT, "{}",
     "!f (data set at line 7 of the config): prompt: a '}' without a '{' at character 2; write "
     "'}}' "
     "for a brace",
     .prompt = "a}"},
    {"no prompt", DATA_TEXT, TEMPLATE_PROMPT, "{}",
     "!f (data set at line 7 of the config): prompt: is missing: the template 'prompt' needs its "
     "text"},
    {"system without a chat", DATA_TEXT, 0, "{}",
     "!f (data set at line 7 of the config): system: only chat templates have a system message",
     .system = "S"},
    {"map of an unknown field", DATA_ALPACA, 0, "{}",
     "!f (data set at line 7 of the config): fields: the format 'alpaca' has no field 'outptu'; "
     "did "
     "you mean 'output'? (write the format's name first, then the file's)",
     .fields = {{"outptu", "a"}}},
};

/* The case's document, or "!" and its problem; the caller frees. */
static char *run_case(const Case *c, const char *dir, const Tokenizer *t)
{
    free(put_file(dir, "f", c->row));
    DataSource src = {.path = path_join(dir, "f"),
                      .format = c->format,
                      .chat = c->chat,
                      .prompt = (char *)(uintptr_t)c->prompt,
                      .system = (char *)(uintptr_t)c->system,
                      .weight = 1,
                      .fields = (FieldMap *)(uintptr_t)c->fields,
                      .line = 7};
    while (src.n_fields < 2 && c->fields[src.n_fields].from)
        src.n_fields++;
    DataOpts opts = {.train_on = c->train_on, .packing = PACK_OFF, .max_length = 4096};
    Log log = {0};
    Problems problems = {0};
    Dataset *d = NULL;
    char *got;
    if (dataset_open_sources(&d, &src, 1, &opts, t, NULL, &log, &problems) == OK) {
        Document doc = dataset_document(d, 0);
        got = marked(t, doc.ids, doc.labels, doc.n);
    } else {
        char *lines = problem_lines(&problems, dir);
        got = str_format("!%.*s", (int)strcspn(lines, "\n"), lines);
        free(lines);
    }
    dataset_free(d);
    problems_clear(&problems);
    free(src.path);
    return got;
}

Test(formats, renderings_and_errors)
{
    char *dir = tmp_dir();
    Tokenizer *tokenizers[8] = {NULL};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        Tokenizer **t = &tokenizers[CASES[i].flags];
        if (!*t) *t = byte_tokenizer(dir, CASES[i].flags);
        char *got = run_case(&CASES[i], dir, *t);
        cr_expect_str_eq(got, CASES[i].want, "%s:\n got %s\nwant %s", CASES[i].name, got,
                         CASES[i].want);
        free(got);
    }
    for (int i = 0; i < 8; i++)
        tokenizer_free(tokenizers[i]);
    tmp_dir_remove(dir);
}

/* Rows as questions: "prompt|answer". */
static const struct {
    const char *name;
    DataFormat format;
    ChatTemplate chat;
    const char *row, *want;
} QUESTIONS[] = {
    {"alpaca", DATA_ALPACA, 0, "{\"instruction\":\"Add.\",\"output\":\"3\"}",
     "<s>" ALPACA "Add.\n\n### Response:|3"},
    {"samsum, no answer", DATA_SAMSUM, 0, "{\"dialogue\":\"A\"}",
     "<s>Summarize this dialog:\nA\n---\nSummary:\n|"},
    {"llama2", DATA_MESSAGES, TEMPLATE_LLAMA2, CHAT,
     "<s>[INST] Hi [/INST] Yo </s><s>[INST] Bye [/INST]|Ta"},
    {"llama3, the user's turn last", DATA_MESSAGES, TEMPLATE_LLAMA3,
     "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}",
     "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\n|"},
    {"chatml", DATA_COMPLETION, TEMPLATE_CHATML, "{\"prompt\":\"Hi\",\"completion\":\"Yo\"}",
     "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n|Yo"},
    {"text", DATA_TEXT, 0, "{\"text\":\"Once\"}", "<s>Once|"},
    {"tokens", DATA_TOKENS, 0, "{\"input_ids\":[256,65,66,257],\"labels\":[-100,-100,66,257]}",
     "<s>A|B"},
};

Test(formats, questions)
{
    char *dir = tmp_dir();
    Tokenizer *t = byte_tokenizer(dir, 0);
    for (size_t i = 0; i < sizeof QUESTIONS / sizeof *QUESTIONS; i++) {
        char *path = put_file(dir, "q", QUESTIONS[i].row);
        DataSource src = {
            .path = path, .format = QUESTIONS[i].format, .chat = QUESTIONS[i].chat, .weight = 1};
        Questions q;
        Problems problems = {0};
        cr_assert(questions_open(&q, &src, 1, t, NULL, &problems) == OK, "%s: %s",
                  QUESTIONS[i].name, problems.n ? problems.lines[0] : "");
        cr_assert_eq(q.n, 1);
        int32_t labels[4096];
        for (int64_t k = 0; k < q.items[0].n; k++)
            labels[k] = -100;
        char *text = marked(t, q.items[0].ids, labels, q.items[0].n);
        char *got = str_format("%s|%s", text, q.items[0].answer ? q.items[0].answer : "");
        cr_expect_str_eq(got, QUESTIONS[i].want, "%s", QUESTIONS[i].name);
        cr_expect(strncmp(q.items[0].text, text + 3, strlen(text) - 3) == 0 ||
                      strcmp(q.items[0].text, text) == 0,
                  "%s: text %s", QUESTIONS[i].name, q.items[0].text);
        cr_expect_eq(q.items[0].at.line, 1);
        free(text);
        free(got);
        free(path);
        questions_clear(&q);
    }
    tokenizer_free(t);
    tmp_dir_remove(dir);
}
