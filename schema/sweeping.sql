-- Sweeping: how members that are gone are removed.
--
-- Processes sweep by turns, about twice a second for each cluster. A sweep has no argument by which a caller
-- could remove members that are alive, so every role that reads may call it. Two rules prevent mistakes (promise 7):
--
-- A late sweep expires nobody. When sweeping had a break (nobody swept, the server restarted, crashed or was
-- replaced, its clock went back), it *resumes*, and silence counts only from then on: watch().
--
-- Turns. Each caller is told how long to wait for its next turn, so that a cluster sweeps once per pace, however
-- many members it has. The pace follows from the members' ttl, never from a caller.

-- Unlogged on purpose. The server empties the table after a crash or a promotion, and a missing row means that
-- sweeping has just resumed.
create unlogged table :"schema".sweeps (
  cluster           text        primary key,
  swept_at          timestamptz not null,
  resumed_at        timestamptz not null,
  turn              timestamptz not null,
  pace              interval    not null,
  server_started_at timestamptz not null,
  outage_at         timestamptz,
  trim_at           timestamptz,
  trimmed_to        bigint      not null default 0
);
comment on column :"schema".sweeps.resumed_at is
  'Since when sweeping has gone on without a break. Silence before it does not count.';
comment on column :"schema".sweeps.turn is 'The last turn handed out to a sweeper.';
comment on column :"schema".sweeps.outage_at is
  'When most sessions were last found missing together. A member that was not heard of since then is left to its ttl.';

comment on column :"schema".sweeps.trim_at is
  'When a sweep next looks for events that the retention does not keep; null: there is no retention.';
comment on column :"schema".sweeps.trimmed_to is 'The revision up to which sweeps have trimmed the log.';

-- Takes the watch over a cluster, and notes whether sweeping has gone on or resumes now. It waits for nobody:
-- null when somebody else has the watch at this moment, or there is no such cluster.
create function :"schema".watch(cluster_name text) returns :"schema".sweeps
language plpgsql
set search_path = :"schema", pg_temp
as $$
declare
  moment timestamptz;
  swept sweeps;
  shortest_ttl constant interval := (select min(m.ttl) from members m where m.cluster = cluster_name);
begin
  -- A heartbeat takes these locks, too. A lock on a whole table that keeps heartbeats out then keeps sweeps out as
  -- well, and nobody expires for it.
  lock table clusters, events in access share mode;
  select * into swept from sweeps s where s.cluster = cluster_name for update skip locked;
  moment := clock_timestamp();
  if found then
    update sweeps s set
      swept_at = moment,
      resumed_at = case
        when moment < s.swept_at or moment > s.swept_at + shortest_ttl / 3
          or s.server_started_at <> pg_postmaster_start_time()
          -- Late in its transaction: it got its locks and its snapshot long ago, and may have kept heartbeats out since.
          or moment > transaction_timestamp() + shortest_ttl / 3 then moment
        else s.resumed_at
      end,
      -- Two paces without a sweep: those who had the turns did not come, and their turns are void.
      turn = case when moment between s.swept_at and s.swept_at + 2 * s.pace then s.turn else moment end,
      pace = least(interval '500 ms', shortest_ttl / 10),
      server_started_at = pg_postmaster_start_time(),
      -- An outage in the future: the clock went back.
      outage_at = case when s.outage_at > moment then moment else s.outage_at end
    where s.cluster = cluster_name
    returning * into swept;
  elsif not exists (select from sweeps s where s.cluster = cluster_name) then
    -- Looked for first, because an insert of the same row by two transactions makes one wait for the other.
    insert into sweeps (cluster, swept_at, resumed_at, turn, pace, server_started_at, trim_at)
    select c.name, moment, moment, moment, least(interval '500 ms', shortest_ttl / 10), pg_postmaster_start_time(),
      (select moment from retention)
    from clusters c where c.name = cluster_name
    on conflict do nothing
    returning * into swept;
  end if;
  -- A heartbeat from the future (the clock went back, or the clock of another primary was ahead) is set to now.
  -- Otherwise a dead member would stay until then, and would seem to have been heard since sweeping resumed.
  update members m set heartbeat_at = swept.swept_at
  where m.id = any (array(
    select f.id from members f
    where f.cluster = swept.cluster and f.heartbeat_at > clock_timestamp()
    order by f.id for no key update skip locked
  ));
  return swept;
end
$$;

-- Whether turns to sweep were missed. A process that learns so sweeps immediately. A standby says no, because it has no
-- unlogged tables.
create function :"schema".sweep_overdue(cluster_name text) returns boolean
language plpgsql volatile
set search_path = :"schema", pg_temp
as $$
begin
  if pg_is_in_recovery() then
    return false;
  end if;
  return not exists (
    select from sweeps s
    where s.cluster = cluster_name and s.swept_at between clock_timestamp() - 2 * s.pace and clock_timestamp()
  );
end
$$;

-- Removes the members of a cluster that are gone. Those whose process died need not wait for their ttl: suspect().
--
-- A sweep that suspects somebody whose grace ends before the next turn takes no turn. Its caller comes back when
-- the grace has ended.
--
-- A transaction that has swept and stays open can delay all changes of the cluster: after 5 idle seconds the server
-- ends it. A transaction with one snapshot (REPEATABLE READ) does not see the heartbeats that came after its
-- beginning: silence counts up to its beginning only.
--
-- Returns the wait in milliseconds, how many it removed, and what it could not remove and why.
create function :"schema".sweep_as_owner(
  cluster_name text,
  out wait_ms integer, out removed integer, out obstacles text[]
)
language plpgsql security definer
set search_path = :"schema", pg_temp
set timezone = 'UTC' -- Where a day has 24 hours.
set lock_timeout = '200ms'
as $$
declare
  swept constant sweeps := watch(cluster_name);
  moment constant timestamptz := case
    when current_setting('transaction_isolation') in ('read committed', 'read uncommitted') then swept.swept_at
    else least(swept.swept_at, transaction_timestamp())
  end;
  heard_since constant timestamptz := greatest(swept.resumed_at, swept.outage_at);
  missing text[];
  follow_up interval;
  gone record;
  outcome record;
  turn_takers bigint;
begin
  removed := 0;
  wait_ms := 500;
  if current_setting('idle_in_transaction_session_timeout')::interval not between interval '1 ms' and interval '5 s' then
    perform set_config('idle_in_transaction_session_timeout', '5s', true);
  end if;
  if swept.cluster is null then
    return;
  end if;

  delete from held_heartbeats h
  where h.cluster = cluster_name and (h.at > clock_timestamp() or not exists (
    select from members m where m.id = h.member and m.token = h.token and m.heartbeat_at < h.at
  ));
  select s.missing, s.follow_up into missing, follow_up from suspect(cluster_name, heard_since) s;

  for gone in
    select case when found.crashed then 'crashed' else 'expired' end as why,
      array_agg(found.id) as ids, array_agg(found.token) as tokens
    from (
      select m.id, m.token, evidence.crashed
      from members m cross join lateral (
        select coalesce(m.session_role || ' ' || m.session = any (missing) and m.suspected_at + m.crash_grace <= moment
          and m.heartbeat_at < m.suspected_at and m.heartbeat_at > heard_since, false) as crashed
      ) evidence
      where m.cluster = cluster_name
        and (evidence.crashed or greatest(m.heartbeat_at, swept.resumed_at) + m.ttl <= moment)
        and not exists (
          select from held_heartbeats h where h.member = m.id and h.token = m.token
            and case when evidence.crashed then h.at >= m.suspected_at else h.at + m.ttl > moment end
        )
      order by m.id for update of m skip locked
    ) found
    group by why
  loop
    outcome := remove_members(cluster_name, gone.ids, gone.tokens, gone.why);
    removed := removed + cardinality(outcome.removed);
    obstacles := obstacles || outcome.obstacles;
  end loop;
  -- Not while this transaction keeps others from changing the cluster.
  if removed = 0 and swept.trim_at <= moment then
    perform keep_retention(swept);
  end if;

  if follow_up <= swept.pace then
    wait_ms := ceil(1000 * extract(epoch from follow_up));
    return;
  end if;
  -- A caller that does not wait for its turns delays those of the others. The bound, in paces, is twenty plus twice
  -- the members, or twenty plus the connections where these are more: processes that only read take turns, too.
  select greatest(2 * count(*), (select count(*) from pg_stat_activity a where a.usesysid is not null))
  into turn_takers from members m where m.cluster = cluster_name;
  update sweeps s
  set turn = least(greatest(s.turn, s.swept_at) + s.pace, s.swept_at + s.pace * (20 + turn_takers))
  where s.cluster = cluster_name
  returning ceil(1000 * extract(epoch from s.turn - s.swept_at)) into wait_ms;
end
$$;

-- As the caller, like deregister(), and for the same reason.
create function :"schema".sweep(
  cluster_name text,
  out wait_ms integer, out removed integer, out obstacles text[]
)
language plpgsql
set search_path = :"schema", pg_temp
as $$
begin
  set constraints all immediate;
  set constraints clusters_announce deferred;
  select s.wait_ms, s.removed, s.obstacles into wait_ms, removed, obstacles from sweep_as_owner(cluster_name) s;
end
$$;

-- The short path of sweep(), for many clusters in one call. It answers only for clusters in which there is nothing to
-- do: sweeping goes on without a break, nobody is gone, suspected or to be suspected, and the log need not be trimmed.
-- For these it takes the watch and the turn, and tells the wait in milliseconds. It also answers where somebody else
-- has the watch at this moment. It changes nothing in the other clusters and leaves them out: sweep() is for them. It
-- removes nobody, and waits for no row.
create function :"schema".sweep_idle(cluster_names text[]) returns table (cluster text, wait_ms integer)
language plpgsql security definer
set search_path = :"schema", pg_temp
set timezone = 'UTC' -- Where a day has 24 hours.
set lock_timeout = '200ms'
:planner_settings
as $$
#variable_conflict use_column
declare
  moment timestamptz;
  present text[];
  sighted boolean;
begin
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
    return;
  end if;
  if current_setting('idle_in_transaction_session_timeout')::interval not between interval '1 ms' and interval '5 s' then
    perform set_config('idle_in_transaction_session_timeout', '5s', true);
  end if;
  -- As in watch(): a lock on a whole table that keeps heartbeats out keeps this out as well.
  lock table clusters, events in access share mode;
  lock table members in row exclusive mode;
  perform pg_stat_clear_snapshot();
  select array_agg(a.usesysid || ' ' || a.application_name),
    bool_or(a.pid = pg_backend_pid() and a.application_name = current_setting('application_name'))
  into present, sighted
  from pg_stat_activity a where a.usesysid is not null;
  if not coalesce(sighted, false) then
    return;
  end if;
  moment := clock_timestamp();
  return query
    with watched as materialized (
      select s.* from sweeps s where s.cluster = any (cluster_names)
      order by s.cluster for update skip locked
    ), quiet as (
      select w.*, m.member_count, least(interval '500 ms', m.shortest_ttl / 10) as next_pace
      from watched w cross join lateral (
        select count(*) as member_count, min(m.ttl) as shortest_ttl,
          bool_or(m.suspected_at is not null or m.heartbeat_at > clock_timestamp()
            or greatest(m.heartbeat_at, w.resumed_at) + m.ttl <= moment
            or m.session is not null and m.session_role is not null
              and m.heartbeat_at > greatest(w.resumed_at, w.outage_at)
              and m.session_role || ' ' || m.session <> all (present)) as busy
        from members m where m.cluster = w.cluster
      ) m
      where not m.busy and moment between w.swept_at and w.swept_at + m.shortest_ttl / 3
        and moment <= transaction_timestamp() + m.shortest_ttl / 3
        and w.server_started_at = pg_postmaster_start_time() and coalesce(w.outage_at <= moment, true)
        and coalesce(w.trim_at > moment, true)
        and not exists (select from held_heartbeats h where h.cluster = w.cluster)
    ), swept as (
      update sweeps s set
        swept_at = moment,
        -- Two paces without a sweep: those who had the turns did not come, and their turns are void.
        turn = least(
          greatest(case when moment <= s.swept_at + 2 * s.pace then s.turn else moment end, moment) + q.next_pace,
          moment + q.next_pace * (20 + greatest(2 * q.member_count, cardinality(present)))
        ),
        pace = q.next_pace
      from quiet q where s.cluster = q.cluster
      returning s.cluster, ceil(1000 * extract(epoch from s.turn - moment))::integer
    )
    select * from swept
    union all
    -- Somebody else has the watch at this moment: wait half a second.
    select s.cluster, 500 from sweeps s
    where s.cluster = any (cluster_names) and s.cluster not in (select w.cluster from watched w);
end
$$;

-- ==== down

drop function :"schema".sweep_idle(text[]);
drop function :"schema".sweep(text);
drop function :"schema".sweep_as_owner(text);
drop function :"schema".sweep_overdue(text);
drop function :"schema".watch(text);
drop table :"schema".sweeps;

-- ==== grants: reader

grant select on :"schema".sweeps to :"role";
grant execute on function :"schema".sweep_overdue(text) to :"role";
grant execute on function
  :"schema".sweep(text), :"schema".sweep_as_owner(text), :"schema".sweep_idle(text[]) to :"role";
