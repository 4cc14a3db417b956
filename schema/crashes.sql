-- Crashes: how a process that died is found sooner than by its ttl.
--
-- A process carries its session's name as application_name on its connections. When the process dies, the kernel
-- closes its sockets, and a moment later no connection with that name is left. To lose all of them is no proof:
-- a member is suspected first, and any connection or heartbeat within its crash_grace ends the suspicion
-- (promise 7). Where the evidence is weak, only the ttl counts.

-- The session to write into a row; null: none. A session is claimed only where this backend is the client's own.
-- Behind a pooler the client was told another pid, and claims nothing.
create function :"schema".claimed_session(session_name text, client_pid integer) returns text
language sql stable
return case
  when client_pid = pg_backend_pid() and session_name = current_setting('application_name') then session_name
end;

-- The role that this connection logged in as; null without a claim.
create function :"schema".claimed_role(session_name text) returns oid
language sql stable
return case when session_name is not null then to_regrole(quote_ident(session_user)) end;

-- Compares the sessions of a cluster with the connections that are there: suspects members, and ends suspicions.
-- Returns the sessions that are missing, as role and name, and how soon the first grace of a new suspicion ends; or when
-- it found that most are missing together.
--
-- `since` is the later of two times: when sweeping resumed, and when most sessions were last missing together. A
-- member that was not heard of after `since` is not counted, neither as missing nor among the others: the server may
-- be the cause of its silence. When most are missing together, the network or the server has failed, and not all
-- processes come back at the same moment: nobody is suspected then. When this backend does not find even its own
-- connection, nobody is suspected either.
--
-- A session is a name and a role: anybody can see the name, and put it on a connection of his own.
create function :"schema".suspect(
  cluster_name text, since timestamptz, out missing text[], out outage timestamptz, out follow_up interval
)
language plpgsql
set search_path = :"schema", pg_temp
as $$
declare
  -- Read before the connections are looked at: a heartbeat that comes after it counts.
  moment constant timestamptz := clock_timestamp();
  sessions constant text[] := array(
    select distinct m.session_role || ' ' || m.session from members m
    where m.cluster = cluster_name and m.session is not null and m.session_role is not null
      and m.heartbeat_at > since
  );
  present text[];
  sighted boolean;
begin
  perform pg_stat_clear_snapshot();
  -- A role without privileges sees only the pid, the role and the name of other connections. That is enough.
  select array_agg(a.usesysid || ' ' || a.application_name)
      filter (where a.usesysid || ' ' || a.application_name = any (sessions)),
    bool_or(a.pid = pg_backend_pid() and a.application_name = current_setting('application_name'))
  into present, sighted from pg_stat_activity a;
  missing := array(select s from unnest(sessions) s where sighted and s <> all (coalesce(present, '{}')));
  if cardinality(missing) >= 3 and cardinality(missing) * 2 > cardinality(sessions) then
    missing := '{}';
    outage := moment;
  end if;

  update members m set suspected_at = null
  where m.id = any (array(
    select s.id from members s
    where s.cluster = cluster_name and s.suspected_at is not null
      and s.session_role || ' ' || s.session <> all (missing)
    order by s.id for no key update skip locked
  ));
  with suspects as (
    update members m set suspected_at = moment
    where m.id = any (array(
      select s.id from members s
      where s.cluster = cluster_name and s.suspected_at is null
        and s.session_role || ' ' || s.session = any (missing) and s.crash_grace is not null and s.heartbeat_at > since and s.heartbeat_at < moment
      order by s.id for no key update skip locked
    ))
    returning m.crash_grace
  )
  -- Two milliseconds more, because a timer may fire early by one.
  select moment + min(s.crash_grace) + interval '2 ms' - clock_timestamp() into follow_up from suspects s;
end
$$;

-- ==== down

drop function :"schema".suspect(text, timestamptz);
drop function :"schema".claimed_role(text);
drop function :"schema".claimed_session(text, integer);
