#include "trainer/final.h"

#include "base/fs.h"
#include "base/str.h"
#include "tensor/safetensors.h"

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

/* Weight files of an earlier result in another number of parts, which readers would take. */
static Status remove_stale(const char *dir, char *const *names, int n, Err *err)
{
    int n_shards = 0;
    for (int i = 0; i < n; i++)
        n_shards += str_starts(names[i], "model") && str_ends(names[i], ".safetensors");
    return n_shards > 0 ? safetensors_remove_stale(dir, n_shards, err) : OK;
}

static Status move_all_in(const char *from, const char *to, Err *err)
{
    char **names = NULL;
    int n = 0;
    TRY(dir_sync(from, err));
    TRY(dir_list(&names, &n, from, err));
    Status status = OK;
    for (int i = 0; i < n && status == OK; i++)
        status = move_in(from, to, names[i], err);
    if (status == OK) status = remove_stale(to, names, n, err);
    dir_list_free(names, n);
    return status == OK ? dir_remove(from, err) : status;
}

static Status write_weights(Saver *saver, const char *dir, const Session *s, Err *err)
{
    TRY(saver_begin(saver, dir, SAVE_WEIGHTS, err));
    return comm_agree(s->hosts, saver_end(saver, err), err);
}

Status final_write(Session *s, Saver *saver, Err *err)
{
    char *tmp = path_join(s->cfg->output, ".result.tmp");
    Status status = write_weights(saver, tmp, s, err);
    if (status == OK && session_leads(s)) status = move_all_in(tmp, s->cfg->output, err);
    free(tmp);
    return comm_agree(s->hosts, status, err);
}
