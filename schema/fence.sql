-- The fence: how an application's transaction is made to depend on a registration.
--
-- The transaction goes on only if the registration is current, and nobody can remove the registration until the
-- transaction has ended (promises 13 and 16). Heartbeats and changes of data go on meanwhile.

-- Locks the row of a registration until the transaction ends, so that nobody can remove it, and tells its cluster if it is
-- current: there, and heard of within its ttl. Else null. It waits for a removal that is under way. Every fence, claim and
-- nonce asks this, and nothing else, who is current.
--
-- A transaction that depends on the registration is bounded. While it idles, nobody else can lead or get the keys, and its
-- process may be frozen, or cut off. So the server ends the transaction, and its session, when it has been idle for the
-- ttl, or for 15 seconds if these are more. A smaller setting of the session stays. After the transaction, or the rollback
-- of the savepoint, the setting is what it was.
create function :"schema".keep_current(member_id uuid, registration bigint, is_bounded boolean) returns text
language plpgsql
set search_path = :"schema", pg_temp
set timezone = 'UTC' -- Where a day has 24 hours.
as $$
declare
  kept record;
begin
  select m.cluster, case
      when is_bounded
        and current_setting('idle_in_transaction_session_timeout')::interval
          not between interval '1 ms' and greatest(m.ttl, interval '15 s')
      then floor(1000 * extract(epoch from greatest(m.ttl, interval '15 s'))) || 'ms'
    end as bound
  into kept from members m
  where m.id = member_id and m.token = registration and (
    -- Mostly the row alone tells it.
    m.heartbeat_at + m.ttl > clock_timestamp()
    or heard_at(m.id, m.token, m.heartbeat_at) + m.ttl > clock_timestamp()
  )
  for key share;
  if kept.bound is not null then
    perform set_config('idle_in_transaction_session_timeout', kept.bound, true);
  end if;
  return kept.cluster;
end
$$;

-- Raises MB001 unless the registration is current and not expired, and keeps it from being removed until the
-- transaction ends.
create function :"schema".fence(member uuid, registration bigint) returns void
language plpgsql security definer
set search_path = :"schema", pg_temp
set lock_timeout = '2s'
as $$
begin
  if keep_current(member, registration, true) is null then
    raise exception 'registration % of member % is not current', registration, member
      using errcode = 'MB001', hint = 'Another process may have taken over: roll back.';
  end if;
end
$$;

-- For drivers that send text. Where both parameters have an unknown type, PostgreSQL chooses (text, text).
create function :"schema".fence(member text, registration text) returns void
language sql set search_path = :"schema", pg_temp
as $$ select fence(member::uuid, registration::bigint) $$;
create function :"schema".fence(member text, registration bigint) returns void
language sql set search_path = :"schema", pg_temp
as $$ select fence(member::uuid, registration) $$;
create function :"schema".fence(member uuid, registration text) returns void
language sql set search_path = :"schema", pg_temp
as $$ select fence(member, registration::bigint) $$;

-- Which transactions keep members that are past their ttl: fences as a rule, or other locks on their rows. Nobody can
-- remove these members before the transactions end. A transaction that runs a statement, or that is prepared, is not ended
-- for idling. Silence before `since` does not count.
--
-- Of a prepared transaction it tells the gid, of any other the session. Both are null where the row was locked inside a
-- savepoint that was released: PostgreSQL does not tell whose that was. It runs as its caller, who is told since when a
-- transaction runs only if it may see the sessions of others.
create function :"schema".kept_past_ttl(cluster_name text, since timestamptz default '-infinity')
returns table (member uuid, token bigint, pid integer, application_name text, begun_at timestamptz, gid text)
language plpgsql stable
set search_path = :"schema", pg_temp
set timezone = 'UTC' -- Where a day has 24 hours.
as $$
#variable_conflict use_column
declare
  newest constant bigint := pg_snapshot_xmax(pg_current_snapshot())::text::bigint;
  kept record;
  lockers bigint[];
begin
  for kept in
    select m.id, m.token, m.xmax as locker from members m
    where m.cluster = cluster_name and m.heartbeat_at + m.ttl < clock_timestamp()
      -- One more second: a heartbeat that comes late locks the row for a moment.
      and greatest(heard_at(m.id, m.token, m.heartbeat_at), since) + m.ttl + interval '1 s' < clock_timestamp()
  loop
    lockers := array[kept.locker::text::bigint];
    begin
      -- Where several have locked the row, its xmax is the number of their list.
      lockers := lockers || array(select l.xid::text::bigint from pg_get_multixact_members(kept.locker) l);
    exception when others then
      null; -- It is no such number.
    end;
    return query
      select distinct kept.id, kept.token, l.pid, a.application_name, coalesce(p.prepared, a.xact_start), p.gid
      from pg_locks l
      left join pg_stat_activity a on a.pid = l.pid
      left join pg_prepared_xacts p on l.pid is null and p.transaction = l.transactionid
      where l.locktype = 'transactionid' and l.granted and l.transactionid::text::bigint = any (lockers)
        and l.pid is distinct from pg_backend_pid();
    if not found then
      begin
        return query
          select kept.id, kept.token, null::integer, null, null::timestamptz, null
          from unnest(lockers) l (xid)
          where l.xid > 0
            and pg_xact_status((newest - ((newest - l.xid) & 4294967295))::text::xid8) = 'in progress'
            and not exists (
              select from pg_locks o where o.transactionid::text::bigint = l.xid and o.pid = pg_backend_pid()
            )
          limit 1;
      exception when others then
        null; -- It is from long ago.
      end;
    end if;
  end loop;
end
$$;

-- The same in words, for a sweep. They stay the same while the transaction lasts: it is logged once.
create function :"schema".fence_obstacles(cluster_name text, since timestamptz) returns text[]
language sql stable
set search_path = :"schema", pg_temp
as $$
  select array_agg(format('%s: %s keeps it beyond its ttl, by a fence or another lock', k.member, coalesce(
    'the prepared transaction ' || k.gid,
    'a transaction of pid ' || k.pid || ' (' || k.application_name || ')',
    'a transaction')) order by k.member, k.pid)
  from kept_past_ttl(cluster_name, since) k
$$;

-- ==== down

drop function :"schema".fence_obstacles(text, timestamptz);
drop function :"schema".kept_past_ttl(text, timestamptz);
drop function :"schema".fence(uuid, text);
drop function :"schema".fence(text, bigint);
drop function :"schema".fence(text, text);
drop function :"schema".fence(uuid, bigint);
drop function :"schema".keep_current(uuid, bigint, boolean);

-- ==== grants: reader

grant execute on function :"schema".kept_past_ttl(text, timestamptz) to :"role";

-- ==== grants: member

grant execute on function
  :"schema".fence(uuid, bigint), :"schema".fence(text, text), :"schema".fence(text, bigint),
  :"schema".fence(uuid, text) to :"role";
