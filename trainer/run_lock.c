#include "trainer/run_lock.h"

#include "base/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

Status run_lock_take(int *lock, const char *dir, Err *err)
{
    char *path = path_join(dir, ".lock");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    Status s = OK;
    if (fd < 0)
        s = err_set(err, E_FAILED, "%s: %s", path, strerror(errno));
    else if (flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        s = err_set(err, E_FAILED, "%s: another run is writing to this folder", dir);
    /* a file system without locks is no reason not to train */
    if (s != OK && fd >= 0) close(fd);
    *lock = s == OK ? fd : -1;
    free(path);
    return s;
}

void run_lock_give(int lock)
{
    if (lock >= 0) close(lock);
}
