#include "trainer/final.h"

#include "base/fs.h"
#include "base/str.h"

#include <stdlib.h>

/* One entry of the finished folder, over what OUTPUT may hold of an earlier run. */
static Status move_in(const char *from_dir, const char *to_dir, const char *name, Err *err)
{
    char *from = path_join(from_dir, name), *to = path_join(to_dir, name);
    Status s = path_is_dir(to) ? dir_remove(to, err) : OK;
    if (s == OK) s = file_rename(from, to, err);
    free(from);
    free(to);
    return s;
}

Status final_write(const Session *s, Err *err)
{
    const char *output = s->cfg->output;
    char *tmp = path_join(output, ".result.tmp");
    char **names = NULL;
    int n = 0;
    Status status = dir_remove(tmp, err);
    if (status == OK) status = dir_make(tmp, err);
    if (status == OK) status = session_write_weights(s, tmp, err);
    if (status == OK) status = dir_sync(tmp, err);
    if (status == OK) status = dir_list(&names, &n, tmp, err);
    for (int i = 0; i < n && status == OK; i++)
        status = move_in(tmp, output, names[i], err);
    dir_list_free(names, n);
    if (status == OK) status = dir_remove(tmp, err);
    free(tmp);
    return status;
}
