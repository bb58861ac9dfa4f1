/* Files: reading whole or mapped, writing beside and renaming, folders.  Every error line names the
 * path and the system's reason. */
#pragma once

#include "base/err.h"
#include "base/str.h"

/* Bytes that are read into memory of a pipe or device, which may have no end (/dev/zero); a longer one is E_INPUT.  Regular files
 * have no such limit. */
enum { FILE_STREAM_MAX = 256 << 20 };

/* A file mapped read-only (or, where it cannot be mapped, read into memory).  Empty file: data is
 * not NULL, len 0. */
typedef struct FileMap {
    const uint8_t *data;
    size_t len;
    bool mapped;
} FileMap;
/* Opens for reading; *fd is the caller's to close.  E_INPUT: it is not there, or is a folder, or a pipe with a name, which may keep
 * us waiting for ever (standard input and <(...) are pipes without one, below /dev). */
Status file_open(int *fd, const char *path, Err *err) MUST_CHECK;
Status file_map(FileMap *out, const char *path, Err *err) MUST_CHECK;
void file_unmap(FileMap *m);

/* The whole file as NUL-terminated text (the NUL is not counted); the caller frees. */
Status file_read(char **out, size_t *len, const char *path, Err *err) MUST_CHECK;

bool path_exists(const char *path);
bool path_is_dir(const char *path);
/* "dir/name" in fresh memory; name absolute: a copy of name. */
char *path_join(const char *dir, const char *name);
/* Without slashes at its end, but for "/" itself; the caller frees. */
char *path_trim(const char *path);
const char *path_base(const char *path); /* the part after the last '/' */

/* What lies at `path` or above it and is no folder, so that dir_make cannot make it; NULL: nothing.  The caller frees. */
char *path_in_the_way(const char *path);
/* E_INPUT: permissions, a file system that is read only, or a name that is too long keep anybody from making what lies at `path`, or
 * from writing to it if it is a folder.  OK does not promise that it can be done. */
Status path_check_writable(const char *path, Err *err) MUST_CHECK;

/* `path`, which need not be there, is the folder `dir` or something in it, through links, too; false where dir is not there. */
bool path_lies_in(const char *path, const char *dir);

/* With parents; existing is fine.  E_INPUT: a file has that name, or a parent's. */
Status dir_make(const char *path, Err *err) MUST_CHECK;
Status dir_make_anew(const char *path, Err *err) MUST_CHECK; /* empty, whatever was there */
/* Names (not paths) in a folder, sorted, without "." and "..".  Free with dir_list_free. */
Status dir_list(char ***names, int *n, const char *path, Err *err) MUST_CHECK;
void dir_list_free(char **names, int n);
/* May a command write its output to the folder `path`: is it new or empty, and outside the folder `source` (or NULL), whose files it
 * copies?  E_INPUT says why not. */
Status dir_check_new(const char *path, const char *source, Err *err) MUST_CHECK;
Status dir_remove(const char *path,
                  Err *err) MUST_CHECK;                 /* with everything in it; absent is fine */
Status dir_sync(const char *path, Err *err) MUST_CHECK; /* fsync of the folder itself */

/* Removes from a folder what killed processes left half written beside its place: names that begin with `name` and go on to
 * ".tmp.PID", where this host has no process PID and nothing of it has changed for an hour (another host's processes have numbers, too). */
void dir_sweep(const char *path, const char *name);

/* Renames over `to` and syncs its folder, so that the new name outlives a crash. */
Status file_rename(const char *from, const char *to, Err *err) MUST_CHECK;

/* Where `path` is written, in fresh memory: what it is a link to, or path itself.  *in_place: that is there and no regular file (a device,
 * a pipe), so that nothing may be renamed over it. */
char *file_place(const char *path, bool *in_place);
/* The same of what file_write_atomic needs. */
Status file_check_writable(const char *path, Err *err) MUST_CHECK;
/* Writes path.tmp.PID, fsyncs, renames over path (file_place): a reader sees the old file or the new one. */
Status file_write_atomic(const char *path, const void *data, size_t len, Err *err) MUST_CHECK;
Status file_copy(const char *from, const char *to,
                 Err *err) MUST_CHECK; /* bytes and mode, fsynced */

/* Bytes at a place of an open file; threads may write different places. */
Status file_write_at(int fd, const void *data, size_t n, uint64_t at, const char *path,
                     Err *err) MUST_CHECK;
/* Makes or empties `path` and gives it its size, in blocks of the disk where the file system can: a disk that is too small for
 * it is told now.  *fd is the caller's to close. */
Status file_create_sized(int *fd, const char *path, uint64_t bytes, Err *err) MUST_CHECK;

/* A sequential writer with a CRC-32C of all that went through it; used for large files.  Write
 * errors (disk full) are kept and told once by file_out_close, which fsyncs.  After file_out_close
 * or file_out_abort (which also unlinks a regular file) the struct is empty. */
typedef struct FileOut {
    int fd;
    char *path;
    uint8_t *buf;
    size_t n_buf;
    uint64_t total;
    uint32_t crc;
    int error; /* errno of the first failure */
} FileOut;
Status file_out_open(FileOut *f, const char *path, Err *err) MUST_CHECK;
void file_out_write(FileOut *f, const void *data, size_t len);
Status file_out_close(FileOut *f, Err *err) MUST_CHECK;
void file_out_abort(FileOut *f);
