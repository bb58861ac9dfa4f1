/* Whose failure is it?  The user's gets a Status and one line in an Err, passed up to cli/, which
 * prints it and exits.  The programmer's gets ASSERT: values, file, line, abort.  The machine's gets
 * panic(): the call, the hook of dist/watch.c (so that no other rank waits), abort; where it has too little
 * memory, which is nobody's bug, give_up(): the same with exit code 1 and no core. */
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#    define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#    define MUST_CHECK             __attribute__((warn_unused_result))
#    define NO_RETURN              __attribute__((noreturn))
#else
#    define PRINTF_LIKE(fmt, args)
#    define MUST_CHECK
#    define NO_RETURN
#endif

/* E_INPUT: the user gave something wrong (usage, config, data, model files): exit code 2.
 * E_FAILED: the run could not go on (disk full, non-finite loss): exit code 1. */
typedef enum Status { OK = 0, E_INPUT, E_FAILED } Status;

/* Several lines, where all of a file's errors are told at once.  Owns its lines. */
typedef struct Problems {
    char **lines;
    int n;
    int n_rows, n_dropped; /* by problems_add_row: among the lines, and left out */
} Problems;

/* One line for the user, without a newline: "file:line: key: what is wrong, what was found, what to
 * do".  Zero-initialise; untouched on success. */
typedef struct Err {
    char line[1024];
    const char
        *key; /* of the caller's settings the one that is wrong (err_about); NULL: not said */
    Problems
        *more; /* the caller's, for a file's other faults (err_of_problems); NULL: one is enough */
} Err;

/* Writes the line and returns `s`, so that a parser can say `return err_set(err, E_INPUT, ...)`.
 * Control characters that came with foreign bytes are replaced by '?'.  err may be NULL. */
Status err_set(Err *err, Status s, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Puts "prefix: " before a line that a lower function wrote; returns `s`. */
Status err_wrap(Err *err, Status s, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Says of a line just written which setting it is about; returns `s`, and does nothing where that is OK.  `key` must outlive err;
 * the next err_set or err_wrap forgets it. */
Status err_about(Err *err, Status s, const char *key);

#define TRY(expr)                                                                                  \
    do {                                                                                           \
        Status try_status_ = (expr);                                                               \
        if (try_status_ != OK) return try_status_;                                                 \
    } while (0)

void problems_add(Problems *p, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Of a row of data: files may have millions of them that are wrong alike, so no more than the first 100 are kept. */
void problems_add_row(Problems *p, const char *fmt, ...) PRINTF_LIKE(2, 3);
void problems_clear(Problems *p);

/* E_INPUT where p has lines, else OK.  The last one becomes err's and the others join err->more; without such a place err
 * takes the first alone.  Empties p. */
Status err_of_problems(Err *err, Problems *p) MUST_CHECK;

/* Runs the panic hook, prints, aborts. */
NO_RETURN void panic_at(const char *file, int line, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* The same for ASSERT.  The condition is an argument of its own: it may hold a '%'. */
NO_RETURN void assert_failed_at(const char *file, int line, const char *cond, const char *fmt, ...)
    PRINTF_LIKE(4, 5);
/* The same for what the machine has too little of: the text may have several lines, and the exit code is 1. */
NO_RETURN void give_up_at(const char *file, int line, const char *fmt, ...) PRINTF_LIKE(3, 4);
typedef void PanicHook(void *ud, const char *message);
/* Prints the message ("panic: FILE:LINE: ..."; of give_up without "panic: ") in place of the own "lorac: MESSAGE".  One per process: set by dist/watch.c, which must end the
 * other ranks. */
void panic_set_hook(PanicHook *hook, void *ud);

#define panic(...)   panic_at(__FILE__, __LINE__, __VA_ARGS__)
#define give_up(...) give_up_at(__FILE__, __LINE__, __VA_ARGS__)

/* Stays on in release builds; the message carries the values. */
#define ASSERT(cond, ...)                                                                          \
    do {                                                                                           \
        if (!(cond)) assert_failed_at(__FILE__, __LINE__, #cond, __VA_ARGS__);                     \
    } while (0)

/* Costly checks (finite values, token range), compiled in when NDEBUG_CHECKS is not set. */
#ifdef LORAC_DEBUG_ASSERT
#    define DEBUG_ASSERT(cond, ...) ASSERT(cond, __VA_ARGS__)
#else
#    define DEBUG_ASSERT(cond, ...) ((void)0)
#endif

#ifdef __cplusplus
}
#endif
