#include "cli/ranks.h"

Status ranks_join(Ranks *r, JoinStop *stop, Err *err)
{
    Launch launch;
    *r = (Ranks){0};
    TRY(launch_read(&launch, err));
    TRY(launch_hosts(&r->hosts, &launch, stop, err));
    return watch_start(&r->watch, &r->hosts, err);
}

int ranks_end(const Ranks *r, Status s, Problems *p, const Err *err)
{
    if (r->hosts.rank == 0) return command_end_problems(s, p, err);
    problems_clear(p);
    return s == OK ? EXIT_DONE : s == E_INPUT ? EXIT_USAGE : EXIT_FAILED;
}

void ranks_leave(Ranks *r)
{
    watch_stop(r->watch);
    comm_close(&r->hosts);
}
