-- Heartbeats: how a process says that it is alive.
--
-- One call renews all registrations of a process in a cluster. It waits for nobody's lock, so no transaction of an
-- application can make a living member silent (promise 7). It notifies nobody and leaves the revision as it is.

-- Heartbeats that came while somebody held the member's row locked. They count as much as the others.
--
-- No key is unique here. To insert a row whose key another transaction is deleting (a sweep that is still open) would
-- mean to wait for that transaction. A registration has one row, and one more for each transaction that has locked those
-- it has.
create unlogged table :"schema".held_heartbeats (
  cluster text        not null,
  member  uuid        not null,
  token   bigint      not null,
  at      timestamptz not null
);
create index held_heartbeats_of_registration on :"schema".held_heartbeats (member, token);

-- When the server last heard of a registration: by the heartbeat that renewed its row last, or by one that was held.
-- Who is current, who is overdue and who has expired is judged by this.
-- (A standby has no unlogged tables.)
create function :"schema".heard_at(member_id uuid, registration bigint, heartbeat_at timestamptz) returns timestamptz
language plpgsql stable
set search_path = :"schema", pg_temp
as $$
begin
  if pg_is_in_recovery() then
    return heartbeat_at;
  end if;
  return greatest(heartbeat_at, (
    select max(h.at) from held_heartbeats h where h.member = member_id and h.token = registration
  ));
end
$$;

-- Renews registrations, and waits for nobody's lock. One locked row must not silence the others: its heartbeat is
-- kept in held_heartbeats. The commit does not wait for the disk, because the loss of a heartbeat in a crash of
-- the server harms nobody.
--
-- locked names those whose rows somebody holds. They are renewed, unless they were about to be removed. missing
-- names those that have ended, and reasons says why. One that was asked to leave (drain()) counts as removed: it is not
-- renewed, and its process ends it. revision and stamp are what a reader compares its own with. channel_stamp is another
-- when the members' channel has another name and key.
create function :"schema".heartbeat(
  cluster_name text, ids uuid[], tokens bigint[], session_name text, client_pid integer,
  out revision bigint, out stamp uuid, out sweep_overdue boolean,
  out locked uuid[], out missing uuid[], out reasons text[], out channel_stamp uuid
)
language plpgsql security definer
set search_path = :"schema", pg_temp
set lock_timeout = '1s'
:planner_settings
as $$
#variable_conflict use_column
declare
  claimed constant text := claimed_session(session_name, client_pid);
  role_claimed constant oid := claimed_role(claimed);
  moment constant timestamptz := clock_timestamp();
  renewed bigint := -1;
begin
  if cardinality(ids) = cardinality(tokens) then
    perform set_config('synchronous_commit', 'off', true);
    -- Updated by ctid, which is safe because the rows are locked: to find each by its id again would double the cost.
    -- An older heartbeat may be executed last. It takes nothing back, and does not end a suspicion that is younger.
    update members m set heartbeat_at = greatest(m.heartbeat_at, moment), session = claimed, session_role = role_claimed,
      suspected_at = case when m.suspected_at > moment then m.suspected_at end
    where m.ctid = any (array(
      select mine.ctid
      from unnest(ids, tokens) held (id, token) join members mine on mine.id = held.id and mine.token = held.token
      where mine.cluster is not distinct from cluster_name and mine.draining_since is null
      for no key update of mine skip locked
    ));
    get diagnostics renewed = row_count;
  end if;
  -- Where every registration was found, the arguments are well formed: no need to check them.
  if renewed is distinct from cardinality(ids) and not well_formed(ids, tokens) then
    raise exception 'ids and tokens must be arrays of one length, without nulls; ids differ, tokens are not negative'
      using errcode = 'invalid_parameter_value';
  end if;

  if renewed < cardinality(ids) then
    select
      array_agg(held.id) filter (where m.id is not null),
      array_agg(held.id) filter (where m.id is null),
      array_agg(coalesce(e.reason, 'removed')) filter (where m.id is null)
    into locked, missing, reasons
    from unnest(ids, tokens) held (id, token)
    left join members m on m.id = held.id and m.token = held.token and m.cluster = cluster_name
      and m.draining_since is null
    left join lateral (
      select e.reason from events e
      where e.member = held.id and (e.member, e.at) >= (held.id, '-infinity') and e.token = held.token
        and e.kind || '' = 'left' and e.cluster || '' = cluster_name
      order by e.at desc limit 1
    ) e on m.id is null
    where m.id is null or m.heartbeat_at < moment;
    with noted as (
      update held_heartbeats h set at = greatest(h.at, moment)
      where h.ctid = any (array(
        select former.ctid
        from unnest(ids, tokens) held (id, token)
        join held_heartbeats former on former.member = held.id and former.token = held.token
        where held.id = any (locked)
        for no key update of former skip locked
      ))
      returning h.member
    )
    insert into held_heartbeats (cluster, member, token, at)
    select cluster_name, held.id, held.token, moment from unnest(ids, tokens) held (id, token)
    where held.id = any (locked) and held.id not in (select n.member from noted n);
  end if;

  select c.revision, c.stamp, sweep_overdue(cluster_name), c.channel_stamp
  into revision, stamp, sweep_overdue, channel_stamp
  from clusters c where c.name = cluster_name;
end
$$;

-- ==== down

drop function :"schema".heartbeat(text, uuid[], bigint[], text, integer);
drop function :"schema".heard_at(uuid, bigint, timestamptz);
drop table :"schema".held_heartbeats;

-- ==== grants: reader

grant select on :"schema".held_heartbeats to :"role";
grant execute on function :"schema".heard_at(uuid, bigint, timestamptz) to :"role";

-- ==== grants: member

grant execute on function :"schema".heartbeat(text, uuid[], bigint[], text, integer) to :"role";
