-- The audit answers what people ask: who is a member now, who was one at a time, how long each stayed, why it left.
--
-- All answers come from members and events. Each is found by an index, however long the log is. The planner does
-- not know the arguments of a function, and would at times read a whole cluster and sort it: hence the settings of
-- the functions here. docs/audit.md shows the questions with their answers.

-- Data as text for people. PostgreSQL's text cannot hold U+0000: it is shown as the symbol for it (U+2400). Bytes
-- that are no text in UTF-8 are shown escaped.
-- An exception block is a subtransaction, which parallel plans do not allow before PostgreSQL 18: so this is not
-- marked as parallel safe.
create function :"schema".readable(data bytea) returns text
language plpgsql immutable strict
set search_path = :"schema", pg_temp
set standard_conforming_strings = on
as $$
begin
  if position('\x00'::bytea in data) > 0 then
    data := decode(replace(replace(encode(data, 'escape'), '\\', '\134'), '\000', '\342\220\200'), 'escape');
  end if;
  return convert_from(data, 'UTF8');
exception when character_not_in_repertoire or untranslatable_character then
  return encode(data, 'escape');
end
$$;

-- Who is a member now, and how old its last heartbeat is. Whether one was held is looked up where the row's is older than
-- half of the ttl: to ask for each row would take longer than all the rest.
create view :"schema".members_now as
select m.cluster, m.id, m.token, :"schema".readable(m.data) as data, m.registered_at, heard.at as heartbeat_at,
  clock_timestamp() - heard.at as silent_for, m.ttl, m.session, m.draining_since
from :"schema".members m
cross join lateral (
  select case
    when m.heartbeat_at + m.ttl / 2 > clock_timestamp() then m.heartbeat_at
    else :"schema".heard_at(m.id, m.token, m.heartbeat_at)
  end as at offset 0
) heard;

-- What a registration carried at a time, for the view. The functions below have the same query written out,
-- because that is faster. In the view it would make the planner compile (JIT) for longer than the query runs.
create function :"schema".data_at(cluster_name text, member_id uuid, registration bigint, moment timestamptz) returns text
language plpgsql stable
set search_path = :"schema", pg_temp
set enable_bitmapscan = off
set enable_sort = off
as $$
begin
  return (
    select readable(e.data) from events e
    where e.member = member_id and e.at <= moment and e.token = registration
      and e.cluster = cluster_name and e.kind <> 'left'
    order by e.at desc, e.revision desc limit 1
  );
end
$$;

-- Every stay of every member: from when to when, for how long, why it ended, and what the member carried last. While
-- a stay lasts, left_at, reason, by_role and note are null: these say how it ended. For the newest stays of a cluster use
-- stays_between(): the planner cannot read a union in the order of an index.
create view :"schema".stays as
select e.cluster, e.member, e.token, e.registered_at as joined_at, e.at as left_at,
  e.at - e.registered_at as stayed, e.reason,
  :"schema".data_at(e.cluster, e.member, e.token, e.at) as data, e.by_role, e.note::text
from :"schema".events e where e.kind = 'left'
union all
select m.cluster, m.id, m.token, m.registered_at, null, clock_timestamp() - m.registered_at, null,
  :"schema".readable(m.data), null, null
from :"schema".members m;

-- Every change, with readable data.
create view :"schema".changes as
select e.cluster, e.revision, e.at, e.kind, e.reason, e.member, e.token, :"schema".readable(e.data) as data,
  e.by_role, e.note::text
from :"schema".events e;

-- A 'left' event holds both ends of a stay. Stays are indexed by classes of their length. A stay that was going on
-- at a time ended within its length afterwards: for each class that is a narrow range of this index. A GiST index
-- on the period gives the same answers, and cost each leave 61 us where this one costs 5.
create index events_by_length on :"schema".events (cluster, width_bucket(at - registered_at,
  :length_classes), at, registered_at)
  where kind = 'left';

-- The stays of a cluster that were going on at a time and have ended since: their 'left' events.
create function :"schema".stays_at(cluster_name text, moment timestamptz) returns setof :"schema".events
language sql stable
set search_path = :"schema", pg_temp
set enable_bitmapscan = off
set jit = off
as $$
  select e.*
  from unnest(
    :length_classes || null::interval
  ) with ordinality class (longest, n)
  cross join lateral (
    select * from events e
    where e.cluster = cluster_name and e.kind = 'left'
      and width_bucket(e.at - e.registered_at,
        :length_classes) = class.n - 1
      and e.at > moment and e.at <= coalesce(moment + class.longest, 'infinity')
      and e.registered_at <= moment
  ) e
$$;

-- The stays in a cluster that overlap a period; only the newest, if a number is given. Those that still last come
-- first, then the others by when they ended, newest first.
create function :"schema".stays_between(
  cluster_name text, since timestamptz default '-infinity', until timestamptz default 'infinity', newest bigint default null
) returns table (
  member uuid, token bigint, joined_at timestamptz, left_at timestamptz, stayed interval, reason text, data text,
  by_role text, note text
)
language sql stable
set search_path = :"schema", pg_temp
set enable_bitmapscan = off
set enable_sort = off
set enable_incremental_sort = on
set jit = off
as $$
  select stay.member, stay.token, stay.joined_at, stay.left_at,
    coalesce(stay.left_at, clock_timestamp()) - stay.joined_at, stay.reason,
    readable(coalesce(stay.data, (
      select c.data from events c
      where c.member = stay.member and c.at <= stay.left_at and c.token = stay.token
        and c.cluster = cluster_name and c.kind <> 'left'
      order by c.at desc, c.revision desc limit 1
    ))),
    stay.by_role, stay.note
  from (
    select m.id as member, m.token, m.registered_at as joined_at, null::timestamptz as left_at, null as reason, m.data,
      null as by_role, null as note
    from members m where m.cluster = cluster_name and m.registered_at <= until
    union all
    select e.member, e.token, e.registered_at, e.at, e.reason, null, e.by_role, e.note from stays_at(cluster_name, until) e
    union all
    (
      select e.member, e.token, e.registered_at, e.at, e.reason, null, e.by_role, e.note from events e
      where e.cluster = cluster_name and e.kind = 'left' and e.at between since and until
      order by e.at desc, e.token desc limit newest
    )
    order by left_at desc nulls first, token desc limit newest
  ) stay
  order by stay.left_at desc nulls first, stay.token desc
$$;

-- Who was a member at a time, and what each carried then.
create function :"schema".members_at(cluster_name text, moment timestamptz)
returns table (id uuid, token bigint, data text, registered_at timestamptz)
language sql stable
set search_path = :"schema", pg_temp
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
  select stay.member, stay.token, readable((
      select c.data from events c
      where c.member = stay.member and c.at <= moment and c.token = stay.token
        and c.cluster = cluster_name and c.kind <> 'left'
      order by c.at desc, c.revision desc limit 1
    )), stay.joined_at
  from (
    select e.member, e.token, e.registered_at as joined_at from stays_at(cluster_name, moment) e
    union all
    select m.id, m.token, m.registered_at
    from members m where m.cluster = cluster_name and m.registered_at <= moment
  ) stay
  order by stay.token
$$;

-- ==== shared: length_classes

'{1 s, 5 s, 30 s, 2 min, 10 min, 1 h, 6 h, 24 h, 168 h, 720 h, 8760 h, 87600 h}'::interval[]

-- ==== down

drop function :"schema".members_at(text, timestamptz);
drop function :"schema".stays_between(text, timestamptz, timestamptz, bigint);
drop function :"schema".stays_at(text, timestamptz);
drop index :"schema".events_by_length;
drop view :"schema".changes;
drop view :"schema".stays;
drop function :"schema".data_at(text, uuid, bigint, timestamptz);
drop view :"schema".members_now;
drop function :"schema".readable(bytea);

-- ==== grants: reader

grant select on :"schema".members_now, :"schema".stays, :"schema".changes to :"role";
grant execute on function
  :"schema".readable(bytea), :"schema".data_at(text, uuid, bigint, timestamptz),
  :"schema".members_at(text, timestamptz), :"schema".stays_at(text, timestamptz),
  :"schema".stays_between(text, timestamptz, timestamptz, bigint) to :"role";
