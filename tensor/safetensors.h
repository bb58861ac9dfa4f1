/* The safetensors format: named arrays behind a JSON header, in one file or in a folder of shards with
 * an index.  Views of mapped bytes; no Device, no Tensor.
 *
 * The reader makes every check of the reference (huggingface/safetensors, tensor.rs) in its order, and
 * names them in its error lines by the reference's names ("MetadataIncompleteBuffer").  It is stricter in
 * three ways: a name twice in a header, a NUL character in a key and a dimension above 2^63-1 are refused. */
#pragma once

#include "base/fs.h"
#include "tensor/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* In the reference's order, by which files are laid out. */
typedef enum SafeDType {
    ST_BOOL,
    ST_F4,
    ST_F6_E2M3,
    ST_F6_E3M2,
    ST_U8,
    ST_I8,
    ST_F8_E5M2,
    ST_F8_E4M3,
    ST_F8_E8M0,
    ST_F8_E4M3FNUZ,
    ST_F8_E5M2FNUZ,
    ST_I16,
    ST_U16,
    ST_F16,
    ST_BF16,
    ST_I32,
    ST_U32,
    ST_F32,
    ST_C64,
    ST_F64,
    ST_I64,
    ST_U64,
    ST_N
} SafeDType;

const char *safe_dtype_name(SafeDType t); /* "BF16", as in files */
int safe_dtype_bits(SafeDType t);
/* The tensor room's type of the same bytes; false when it has none. */
bool safe_dtype_to_tensor(SafeDType t, DType *out);
SafeDType safe_dtype_from_tensor(DType t);

typedef struct SafeTensor {
    const char *name;
    SafeDType dtype;
    int n_dims; /* 0: a scalar */
    const int64_t *shape;
    const uint8_t
        *data; /* little-endian, row-major, perhaps unaligned; NULL: made by a SafeSource */
    size_t bytes;
    const char *file; /* reading: the path it lies in, for messages */
} SafeTensor;

int64_t safe_numel(const SafeTensor *t);

/* ---- reading ---------------------------------------------------------------------------------- */

typedef struct SafeTensors
    SafeTensors; /* one file or all shards; owns what its SafeTensors point at */

/* path: a .safetensors file, a .index.json, or a folder (model.safetensors, else the index).  Of shards
 * only tensors that the index names are seen. */
Status safetensors_open(SafeTensors **out, const char *path, Err *err) MUST_CHECK;
/* A file's bytes in memory, borrowed; `name` is what error lines start with. */
Status safetensors_parse(SafeTensors **out, const uint8_t *data, size_t len, const char *name,
                         Err *err) MUST_CHECK;
void safetensors_close(SafeTensors *s); /* NULL is fine */

int safetensors_count(const SafeTensors *s);
const SafeTensor *safetensors_at(const SafeTensors *s, int i); /* in byte order of the names */
const SafeTensor *safetensors_find(const SafeTensors *s, const char *name); /* NULL when absent */
/* A value of the first file's __metadata__, NULL when absent; for all: i-th key and value, false at
 * the end. */
const char *safetensors_meta(const SafeTensors *s, const char *key);
bool safetensors_meta_at(const SafeTensors *s, int i, const char **key, const char **value);
/* Tensors in the shards that the index does not name. */
int safetensors_unlisted(const SafeTensors *s);

/* ---- writing ---------------------------------------------------------------------------------- */

/* Writes the t->bytes of a tensor whose data is NULL with file_out_write, in as many pieces as it
 * likes; called in the file's order, once a tensor.  Its error line is told as it is, without the path that was to be written. */
typedef Status SafeSource(void *ud, const SafeTensor *t, FileOut *f, Err *err);

/* The N bytes of JSON and padding behind the length field, as the reference writes them: larger dtypes
 * first, then by name.  order[k]: the tensor that comes k-th.  meta: NULL, or keys and values in turn
 * with a NULL at the end. */
Status safetensors_header(StrBuf *out, int *order, const SafeTensor *tensors, int n,
                          const char *const *meta, Err *err) MUST_CHECK;

/* One file, with {"format":"pt"} and then `meta` as its metadata: written beside, fsynced, renamed.
 * source may be NULL when every tensor has data. */
Status safetensors_write(const char *path, const SafeTensor *tensors, int n,
                         const char *const *meta, SafeSource *source, void *ud,
                         Err *err) MUST_CHECK;

/* A model folder's weights: model.safetensors, or shards of at most max_shard_bytes (a larger tensor has
 * one of its own) filled in the order of tensors[], with model.safetensors.index.json.  Weight files of
 * an earlier save that are not part of this one are removed at the end. */
Status safetensors_write_model(const char *dir, const SafeTensor *tensors, int n,
                               uint64_t max_shard_bytes, SafeSource *source, void *ud,
                               Err *err) MUST_CHECK;
/* That last part by itself: the folder has n_shards of these files and keeps no others. */
Status safetensors_remove_stale(const char *dir, int n_shards, Err *err) MUST_CHECK;

/* Where every tensor of a file, or of a model folder's files, lies, known before the first byte is written: for those who
 * write them in pieces.  The bytes are those that the functions above write. */
typedef struct SafeFile {
    char *name;     /* in its folder */
    StrBuf header;  /* what the file begins with: the length field and safetensors_header */
    uint64_t bytes; /* of the whole file */
} SafeFile;
typedef struct SafeLayout {
    SafeFile *files;
    int n_files;
    int *file_of;      /* of each tensor */
    uint64_t *offsets; /* of each tensor in its file */
    StrBuf index;      /* text of model.safetensors.index.json; empty: none is needed */
} SafeLayout;

/* One file.  meta: as safetensors_header takes it. */
Status safetensors_layout(SafeLayout *out, const char *name, const SafeTensor *tensors, int n,
                          const char *const *meta, Err *err) MUST_CHECK;
/* Those of safetensors_write_model. */
Status safetensors_layout_model(SafeLayout *out, const SafeTensor *tensors, int n,
                                uint64_t max_shard_bytes, Err *err) MUST_CHECK;
void safetensors_layout_clear(SafeLayout *l);

#ifdef __cplusplus
}
#endif
