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
--
-- One row for each cluster; the row with the last sweep counts. There are more only where a transaction that has swept
-- stays open: the others pass its row by and begin another one. No key is unique, so nobody waits to begin a row.
create unlogged table :"schema".sweeps (
  cluster           text        not null,
  swept_at          timestamptz not null,
  resumed_at        timestamptz not null,
  turn              timestamptz not null,
  pace              interval    not null,
  server_started_at timestamptz not null,
  outage_at         timestamptz,
  trim_at           timestamptz,
  trimmed_to        bigint      not null default 0
);
create index sweeps_of_cluster on :"schema".sweeps (cluster);
comment on column :"schema".sweeps.resumed_at is
  'Since when sweeping has gone on without a break. Silence before it does not count.';
comment on column :"schema".sweeps.turn is 'The last turn handed out to a sweeper.';
comment on column :"schema".sweeps.outage_at is
  'When most sessions were last found missing together. A member that was not heard of since then is left to its ttl.';

comment on column :"schema".sweeps.trim_at is
  'When a sweep next looks for events that the retention does not keep; null: as soon as there is a retention.';
comment on column :"schema".sweeps.trimmed_to is 'The revision up to which sweeps have trimmed the log.';

-- Takes the watch over a cluster, and notes whether sweeping has gone on or resumes now. It waits for nobody:
-- null when somebody else has the watch at this moment, or there is no such cluster.
--
-- A transaction that has swept and stays open keeps its row locked, and others cannot tell for how long. When two paces
-- have gone by without a sweep, whoever comes begins another row, from which the next sweep goes on: what is known of
-- the past is in both. When the transaction has ended, its row is deleted.
--
-- A transaction that is a third of the shortest ttl old sweeps nothing, and takes no watch. It got its locks and its
-- snapshot long ago, and may have kept heartbeats out since. What it does not see must not be taken for a break either:
-- with old transactions a reader could make sweeping resume again and again, and the dead would stay.
create function :"schema".watch(cluster_name text) returns :"schema".sweeps
language plpgsql
set search_path = :"schema", pg_temp
:planner_settings
as $$
declare
  moment timestamptz;
  last record;
  has_it boolean;
  swept sweeps;
  resumed timestamptz;
  outage timestamptz;
  shortest_ttl constant interval := (select min(m.ttl) from members m where m.cluster = cluster_name);
  next_pace constant interval := least(interval '500 ms', shortest_ttl / 10);
begin
  -- A heartbeat takes these locks, too. A lock on a whole table that keeps heartbeats out then keeps sweeps out as
  -- well, and nobody expires for it.
  lock table clusters, events in access share mode;
  if clock_timestamp() > transaction_timestamp() + shortest_ttl / 3 then
    return null;
  end if;
  select s.ctid as place, s.swept_at, s.pace, s.server_started_at, s.trim_at, s.trimmed_to, s.resumed_at, s.outage_at,
    (select count(*) from sweeps o where o.cluster = cluster_name) as watches
  into last
  from sweeps s where s.cluster = cluster_name for update skip locked;
  has_it := found;
  if not has_it or last.watches > 1 then
    -- A row from the future (the clock went back) is the last one only if there is no other.
    select s.ctid as place, s.swept_at, s.pace, s.server_started_at, s.trim_at, s.trimmed_to,
      max(s.resumed_at) over () as resumed_at, max(s.outage_at) over () as outage_at, count(*) over () as watches
    into last
    from sweeps s where s.cluster = cluster_name
    order by s.swept_at <= clock_timestamp() desc, s.swept_at desc limit 1;
    if last.place is not null then
      perform from sweeps s where s.ctid = last.place for update skip locked;
      has_it := found;
    end if;
  end if;
  moment := clock_timestamp();
  resumed := case
    when last.place is null or moment < last.swept_at or moment > last.swept_at + shortest_ttl / 3
      or last.server_started_at <> pg_postmaster_start_time() then moment
    else least(last.resumed_at, moment)
  end;
  outage := case when last.outage_at > moment then moment else last.outage_at end;

  if has_it then
    update sweeps s set
      swept_at = moment,
      resumed_at = resumed,
      -- Two paces without a sweep: those who had the turns did not come, and their turns are void.
      turn = case when moment between s.swept_at and s.swept_at + 2 * s.pace then s.turn else moment end,
      pace = next_pace,
      server_started_at = pg_postmaster_start_time(),
      -- What is in the future is from before the clock went back.
      outage_at = outage,
      trim_at = case when s.trim_at > moment + interval '1 minute' then moment else s.trim_at end
    where s.ctid = last.place
    returning * into swept;
  elsif last.place is null
    or current_setting('transaction_isolation') in ('read committed', 'read uncommitted')
    and moment not between last.swept_at and last.swept_at + 2 * last.pace
    -- Locked, and not changed: nobody has swept since it was looked at.
    and exists (select from sweeps s where s.ctid = last.place and s.swept_at = last.swept_at) then
    insert into sweeps (cluster, swept_at, resumed_at, turn, pace, server_started_at, outage_at, trim_at, trimmed_to)
    select c.name, moment, resumed, moment, next_pace, pg_postmaster_start_time(), outage,
      last.trim_at, coalesce(last.trimmed_to, 0)
    from clusters c where c.name = cluster_name
    returning * into swept;
    if last.place is not null then
      return null;
    end if;
  end if;
  if last.watches > 1 then
    delete from sweeps s where s.ctid = any (array(
      select o.ctid from sweeps o where o.cluster = swept.cluster and o.swept_at <> swept.swept_at for update skip locked
    ));
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

-- Who has swept a cluster in a transaction that is still open, in words: pid and role, so that somebody can end it. A
-- savepoint hides which one it is: then all that write here at this moment are named.
create function :"schema".open_sweeps(swept :"schema".sweeps) returns text[]
language sql
set search_path = :"schema", pg_temp
as $$
  select array_agg(format(
    'a transaction has swept and is still open, and may keep others from changing the cluster: %s',
    coalesce(
      (
        select format('process %s (role %s)', l.pid, a.usename)
        from pg_locks l join pg_stat_activity a on a.pid = l.pid
        where l.locktype = 'transactionid' and l.granted and l.transactionid = s.xmax
      ),
      (select format('prepared transaction %L (role %s)', p.gid, p.owner) from pg_prepared_xacts p where p.transaction = s.xmax),
      (
        select string_agg(format('process %s (role %s)', l.pid, a.usename), ' or ' order by l.pid)
        from pg_locks l join pg_stat_activity a on a.pid = l.pid
        where l.locktype = 'relation' and l.relation = 'sweeps'::regclass and l.mode = 'RowExclusiveLock'
          and l.database = (select d.oid from pg_database d where d.datname = current_database()) and l.pid <> pg_backend_pid()
      ),
      'nobody knows whose'
    )
  ))
  from sweeps s
  where s.cluster = swept.cluster and s.swept_at <> swept.swept_at
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
-- ends it, and others are told who it is. A transaction with one snapshot (REPEATABLE READ) does not see the heartbeats
-- that came after its beginning: silence counts up to its beginning only.
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
  outage timestamptz;
  follow_up interval;
  gone_ids uuid[];
  gone_tokens bigint[];
  crashed_ids uuid[];
  turn_takers bigint;
  watches bigint;
  trims boolean;
begin
  removed := 0;
  wait_ms := 500;
  if current_setting('idle_in_transaction_session_timeout')::interval not between interval '1 ms' and interval '5 s' then
    perform set_config('idle_in_transaction_session_timeout', '5s', true);
  end if;
  if swept.cluster is null then
    if statement_timestamp() > transaction_timestamp() + (
      select min(m.ttl) from members m where m.cluster = cluster_name
    ) / 3 then
      obstacles := array['nothing was swept: the transaction is too old. Call sweep() as a statement of its own'];
    end if;
    return;
  end if;

  delete from held_heartbeats d where d.ctid = any (array(
    select h.ctid from held_heartbeats h
    where h.cluster = cluster_name and (h.at > clock_timestamp() or not exists (
      select from members m where m.id = h.member and m.token = h.token and m.heartbeat_at < h.at
    ))
    for update skip locked
  ));
  select s.missing, s.outage, s.follow_up into missing, outage, follow_up from suspect(cluster_name, heard_since) s;

  select array_agg(found.id), array_agg(found.token), array_agg(found.id) filter (where found.crashed)
  into gone_ids, gone_tokens, crashed_ids
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
  ) found;
  if gone_ids is not null then
    select cardinality(r.removed), r.obstacles into removed, obstacles
    from remove_members(cluster_name, gone_ids, gone_tokens, 'expired', crashed_ids) r;
  end if;
  obstacles := obstacles || fence_obstacles(cluster_name, swept.resumed_at);

  if follow_up <= swept.pace then
    wait_ms := ceil(1000 * extract(epoch from follow_up));
    return;
  end if;
  -- A caller that does not wait for its turns delays those of the others. The bound, in paces, is twenty plus twice
  -- the members, or twenty plus the connections where these are more: processes that only read take turns, too.
  select greatest(2 * count(*), (select count(*) from pg_stat_activity a where a.usesysid is not null))
  into turn_takers from members m where m.cluster = cluster_name;
  update sweeps s
  set turn = least(greatest(s.turn, s.swept_at) + s.pace, s.swept_at + s.pace * (20 + turn_takers)),
    outage_at = coalesce(outage, s.outage_at)
  where s.cluster = cluster_name and s.swept_at = swept.swept_at
  returning ceil(1000 * extract(epoch from s.turn - s.swept_at)),
    (select count(*) from sweeps o where o.cluster = cluster_name),
    coalesce(s.trim_at <= s.swept_at, true) and exists (select from retention)
  into wait_ms, watches, trims;
  if watches > 1 then
    obstacles := obstacles || open_sweeps(swept);
  end if;
  -- Not while this transaction keeps others from changing the cluster.
  if trims and removed = 0 then
    perform keep_retention(swept);
  end if;
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
-- has the watch at this moment, and has not had it for long. It changes nothing in the other clusters and leaves them
-- out: sweep() is for them. It removes nobody, and waits for no row.
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
      select s.*, s.ctid as place from sweeps s
      where s.cluster = any (cluster_names) and moment <= transaction_timestamp() + 3 * s.pace
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
      where not m.busy
        -- Two that began to sweep at the same moment left a row each: sweep() makes them one.
        and not exists (select from watched o where o.cluster = w.cluster and o.place <> w.place)
        and moment between w.swept_at and w.swept_at + m.shortest_ttl / 3
        and moment <= transaction_timestamp() + m.shortest_ttl / 3
        and w.server_started_at = pg_postmaster_start_time() and coalesce(w.outage_at <= moment, true)
        and (w.trim_at between moment and moment + interval '1 minute' or not exists (select from retention))
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
      from quiet q where s.ctid = q.place
      returning s.cluster, ceil(1000 * extract(epoch from s.turn - moment))::integer
    )
    select * from swept
    union all
    -- Somebody else has the watch at this moment: wait half a second.
    select s.cluster, 500 from sweeps s
    where s.cluster = any (cluster_names) and s.cluster not in (select w.cluster from watched w)
      and moment between s.swept_at and s.swept_at + 2 * s.pace and moment <= transaction_timestamp() + 3 * s.pace;
end
$$;

-- ==== down

drop function :"schema".sweep_idle(text[]);
drop function :"schema".sweep(text);
drop function :"schema".sweep_as_owner(text);
drop function :"schema".sweep_overdue(text);
drop function :"schema".open_sweeps(:"schema".sweeps);
drop function :"schema".watch(text);
drop table :"schema".sweeps;

-- ==== grants: reader

grant select on :"schema".sweeps to :"role";
grant execute on function :"schema".sweep_overdue(text) to :"role";
grant execute on function
  :"schema".sweep(text), :"schema".sweep_as_owner(text), :"schema".sweep_idle(text[]) to :"role";
