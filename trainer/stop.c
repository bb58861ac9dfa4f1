/* The handlers only set a flag.  It is the program's one global: signals know no other place. */
#include "trainer/stop.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t caught; /* number of the first signal */
static int64_t last_second; /* Unix time from which on the job's end is near; 0: no limit known */

static void on_signal(int number)
{
    if (!caught) caught = number;
    if (number != SIGINT) return;
    static const char said[] =
        "\nlorac: saving after this step, then stopping; once more ends at once\n";
    int was = errno;
    if (write(STDERR_FILENO, said, sizeof said - 1) < 0) errno = was;
    errno = was;
}

static void handle(int number, void (*handler)(int), int flags)
{
    struct sigaction a = {.sa_handler = handler, .sa_flags = flags};
    sigemptyset(&a.sa_mask);
    sigaction(number, &a, NULL);
}

void stop_listen(void)
{
    handle(SIGPIPE, SIG_IGN, 0); /* who reads along may leave; training goes on */
    handle(SIGTERM, on_signal, SA_RESTART);
    handle(SIGUSR1, on_signal, SA_RESTART);
}

void stop_listen_clock(int64_t before_end)
{
    const char *end = getenv("SLURM_JOB_END_TIME");
    long long at = end ? strtoll(end, NULL, 10) : 0;
    last_second = before_end > 0 && at > 0 ? at - before_end : 0;
}

void stop_listen_terminal(void)
{
    handle(SIGINT, on_signal, SA_RESTART | (int)SA_RESETHAND);
}

const char *stop_requested(void)
{
    switch (caught) {
    case SIGTERM:
        return "SIGTERM";
    case SIGUSR1:
        return "SIGUSR1";
    case SIGINT:
        return "SIGINT";
    }
    return last_second > 0 && time(NULL) >= last_second ? "the near end of the Slurm job" : NULL;
}
