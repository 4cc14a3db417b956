-- Registering: how a member gets its row and its token.
--
-- The token of a registration is higher than every earlier one of its cluster (promise 16). An attempt may be
-- repeated after a lost reply, and may be executed late or twice: it never gives one process two registrations,
-- and never undoes what came after it.

-- Registers those of ids that have no registration above their floor (the last token that their owner knows of),
-- and tells the token of each. A retry after a lost reply finds its own row. A late duplicate of an older attempt
-- finds a higher token and does nothing. The token is null where another cluster holds the id. An id is left out
-- while somebody holds its row locked: try again. Of two attempts for one id at the same time, one fails with
-- unique_violation.
--
-- An attempt may be executed long after its caller has given up: it lay in a socket, or its backend was stopped.
-- attempted_at says when it began, by the clock of this server, never later than the truth; null: nobody
-- knows. An attempt older than 10 seconds is refused. An id that has left since it began is left out.
--
-- An id that was evicted is not registered. Its token is null, and the row says by whom, why, and until when.
--
-- Each row has the position of the cluster at which it can be seen. previous_stamp is the stamp before it, and
-- null unless the rows are all that has changed.
--
-- Without may_remove, it does nothing and returns nothing where it would have to remove a row: register() says why.
create function :"schema".register_as_owner(
  cluster_name text, ids uuid[], contents bytea[], floors bigint[],
  member_ttl interval, member_crash_grace interval, session_name text, client_pid integer,
  attempted_at timestamptz, may_remove boolean
) returns table (
  id uuid, token bigint, registered_at timestamptz, revision bigint, stamp uuid, previous_stamp uuid,
  evicted_by text, note text, until timestamptz
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
  since constant timestamptz := clock_timestamp();
  moment timestamptz;
  head clusters;
  held_ids uuid[];
  old_ids uuid[];
  old_tokens bigint[];
  new_ids uuid[];
  new_contents bytea[];
  joiners bigint;
  highest_floor bigint;
  is_watched boolean;
begin
  if not well_formed(ids, floors) or cardinality(contents) is distinct from cardinality(ids)
    or array_position(contents, null) is not null then
    raise exception 'ids, contents and floors must be arrays of one length, without nulls; ids differ, floors are not negative'
      using errcode = 'invalid_parameter_value';
  end if;
  if member_crash_grace > member_ttl / 2 then
    raise exception 'crash_grace must be at most half of ttl' using errcode = 'check_violation';
  end if;
  if since > attempted_at + interval '10 seconds' then
    raise exception 'the attempt to register began at %, too long ago', attempted_at using errcode = 'MB003';
  end if;
  for look in 1 .. 2 loop
    select count(*), max(wanted.floor), array_agg(wanted.id), array_agg(wanted.data),
      exists (select from sweeps s where s.cluster = cluster_name and s.swept_at > clock_timestamp() - member_ttl / 3)
    into joiners, highest_floor, new_ids, new_contents, is_watched
    from unnest(ids, contents, floors) wanted (id, data, floor)
    where not exists (select from members m where m.id = wanted.id)
      and not exists (
        select from evictions v
        where v.cluster = cluster_name and v.member = wanted.id and coalesce(v.until > clock_timestamp(), true)
      )
      -- An event later than now was written before the clock went back: it does not count. The planner must not know that
      -- there is an index of those who left: it could read all of it.
      and not exists (
        select from events e
        where e.member = wanted.id and (e.member, e.at) >= (wanted.id, attempted_at) and e.at <= clock_timestamp()
          and e.kind || '' = 'left' and e.reason <> 'superseded'
      );
    exit when look = 2 or joiners = cardinality(ids);
    select array_agg(held.id) into held_ids
    from (
      select m.id from members m where m.id = any (ids) and m.cluster is not distinct from cluster_name
      order by m.id for update skip locked
    ) held;
    exit when held_ids is null;
    select array_agg(m.id), array_agg(m.token) into old_ids, old_tokens
    from unnest(ids, floors) wanted (id, floor)
    join members m on m.id = wanted.id and m.token <= wanted.floor
    where m.id = any (held_ids);
    if old_ids is not null and may_remove is not true then
      return;
    end if;
    perform remove_members(cluster_name, old_ids, old_tokens, 'superseded', told_since => since - member_ttl);
    update members m set heartbeat_at = greatest(m.heartbeat_at, clock_timestamp()), suspected_at = null,
      session = claimed, session_role = role_claimed
    where m.id = any (held_ids) and m.draining_since is null;
  end loop;

  if joiners > 0 then
    if highest_floor > 1000000000 then
      -- JavaScript's numbers are exact below 2^53. One absurd floor must not lift the tokens of a cluster above that.
      if highest_floor > 1000000000 + coalesce((select c.last_token from clusters c where c.name = cluster_name), 0) then
        raise exception 'a floor of % is absurd', highest_floor using errcode = 'invalid_parameter_value';
      end if;
    end if;
    head := advance(cluster_name, joiners, highest_floor);
    -- This may have waited, or been stopped, since it looked: a member may have been evicted, or have come and left.
    if clock_timestamp() > attempted_at + interval '10 seconds' then
      raise exception 'the attempt to register began at %, too long ago', attempted_at using errcode = 'MB003';
    end if;
    if exists (
      select from evictions v
      where v.cluster = cluster_name and v.member = any (new_ids) and coalesce(v.until > clock_timestamp(), true)
    ) or exists (
      select from unnest(new_ids) joiner (id)
      where exists (
        select from events e
        where e.member = joiner.id and (e.member, e.at) >= (joiner.id, attempted_at) and e.at <= clock_timestamp()
          and e.kind || '' = 'left' and e.reason <> 'superseded'
      )
    ) then
      raise exception 'a member was evicted or left while it registered' using errcode = 'serialization_failure';
    end if;
    if not is_watched then
      perform watch(cluster_name); -- Nobody sweeps: silence is counted from now on.
    end if;
    -- Read after the cluster was locked. With an earlier time, a registration that waited could expire immediately.
    moment := clock_timestamp();
    with joiner as materialized (
      select j.id, j.data, head.revision - joiners + j.n as revision, head.last_token - joiners + j.n as token
      from unnest(new_ids, new_contents) with ordinality j (id, data, n)
    ), logged as (
      insert into events (cluster, revision, stamp, at, kind, reason, member, token, registered_at, data)
      select cluster_name, j.revision, head.stamp, moment, 'joined', 'registered', j.id, j.token, moment, j.data
      from joiner j
    )
    insert into members (
      id, cluster, data, revision, token, ttl, crash_grace, registered_at, heartbeat_at, session, session_role)
    select j.id, cluster_name, j.data, j.revision, j.token, make_interval(secs => extract(epoch from member_ttl)),
      make_interval(secs => extract(epoch from member_crash_grace)), moment, moment, claimed, role_claimed
    from joiner j;
  end if;

  if joiners = cardinality(ids) and old_ids is null then
    registered_at := moment;
    revision := head.revision;
    stamp := head.stamp;
    previous_stamp := head.previous_stamp;
    for n in 1 .. joiners loop
      id := new_ids[n];
      token := head.last_token - joiners + n;
      return next;
    end loop;
    return;
  end if;
  select * into head from clusters c where c.name = cluster_name;
  return query
    select m.id, case when m.cluster = cluster_name then m.token end, m.registered_at, head.revision, head.stamp, null::uuid,
      null::text, null::text, null::timestamptz
    from unnest(ids, floors) wanted (id, floor) join members m on m.id = wanted.id
    where m.cluster <> cluster_name or (m.token > wanted.floor and (m.id = any (held_ids) or m.id = any (new_ids)))
    union all
    select v.member, null, null, head.revision, head.stamp, null, v.by_role, v.note, v.until
    from unnest(ids, floors) wanted (id, floor)
    join evictions v on v.cluster = cluster_name and v.member = wanted.id
    where coalesce(v.until > clock_timestamp(), true) and not exists (
      select from members m where m.id = wanted.id and (m.cluster <> cluster_name or m.token > wanted.floor)
    );
end
$$;

-- As the caller where a row is to be removed, like deregister(), and for the same reason: a deferred foreign key holds
-- back its own member only, and not those that register with it.
create function :"schema".register(
  cluster_name text, ids uuid[], contents bytea[], floors bigint[],
  member_ttl interval, member_crash_grace interval, session_name text, client_pid integer,
  attempted_at timestamptz default null
) returns table (
  id uuid, token bigint, registered_at timestamptz, revision bigint, stamp uuid, previous_stamp uuid,
  evicted_by text, note text, until timestamptz
)
language plpgsql
set search_path = :"schema", pg_temp
as $$
begin
  return query select * from register_as_owner(cluster_name, ids, contents, floors, member_ttl, member_crash_grace,
    session_name, client_pid, attempted_at, false);
  if not found then
    set constraints all immediate;
    set constraints clusters_announce deferred;
    return query select * from register_as_owner(cluster_name, ids, contents, floors, member_ttl, member_crash_grace,
      session_name, client_pid, attempted_at, true);
  end if;
end
$$;

-- ==== down

drop function :"schema".register(text, uuid[], bytea[], bigint[], interval, interval, text, integer, timestamptz);
drop function :"schema".register_as_owner(
  text, uuid[], bytea[], bigint[], interval, interval, text, integer, timestamptz, boolean);

-- ==== grants: member

grant execute on function
  :"schema".register(text, uuid[], bytea[], bigint[], interval, interval, text, integer, timestamptz),
  :"schema".register_as_owner(
    text, uuid[], bytea[], bigint[], interval, interval, text, integer, timestamptz, boolean) to :"role";
