-- Claims: keys of which each is one registration's alone.
--
-- A claim is a row that references the row of its registration, and is deleted with it. So the database itself releases
-- the keys when a registration ends, whichever way it ends: deregistered, expired, crashed, evicted, or deleted by hand
-- (promise 17). A new registration of the same member begins with nothing.
--
-- A claim in a table is only as good as the moment at which it was read. fence_claims() makes a transaction depend on
-- claims until it ends (promise 18).

-- Names are compared by their bytes, whatever the database's collation is.
create domain :"schema".layer_name as text collate "C" check (octet_length(convert_to(value, 'UTF8')) between 1 and 255);
create domain :"schema".claim_space as text collate "C" check (octet_length(convert_to(value, 'UTF8')) <= 255);

create table :"schema".claims (
  cluster    text        not null,
  space      :"schema".claim_space not null,
  key        :"schema".layer_name not null,
  member     uuid        not null,
  token      bigint      not null,
  claimed_at timestamptz not null default clock_timestamp(),
  primary key (cluster, space, key),
  foreign key (member, token) references :"schema".members (id, token) on delete cascade
) with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 500);
-- By this a registration's claims are found when it ends.
create index claims_of_registration on :"schema".claims (member, token);
comment on table :"schema".claims is
  'Which registration has which key. A row goes with the row of its member, whoever deletes that.';
comment on column :"schema".claims.space is 'Keys of one space do not meet those of another. The default space is ''''.';

-- Whether these can be names in a table: no null, and each as long as a name may be.
create function :"schema".nameable(names text[]) returns boolean
language sql immutable parallel safe
set search_path = :"schema", pg_temp
as $$
  select coalesce(
    array_position(names, null) is null
      and not exists (select from unnest(names) n where octet_length(convert_to(n, 'UTF8')) not between 1 and 255)
      and names is not null,
    false)
$$;

-- The functions below compare a row's registration in a way that no index helps with. Otherwise the planner may find all
-- claims of the registration first, and compare each of them with all keys. And they look for
-- one key after another: without statistics, PostgreSQL 14 reads all keys of the space for `= any (keys)`, and for a join.

-- Claims those of the keys that are free, and returns all that are this registration's now, newly or already. So it can
-- be repeated after a lost reply. Raises MB001 unless the registration is current.
--
-- It waits for nobody. A key that somebody else has is left out. A key that another transaction is claiming or releasing
-- at this moment is left out as well, if that transaction does not end within some milliseconds: it may be free soon,
-- and is found when somebody asks again. PostgreSQL cannot skip such a key (there is no row yet that others could see),
-- so this waits for it, 50 milliseconds at first, then 2 with half of the keys, until the keys in the way are found. All
-- in all it waits 200 milliseconds at most; what it has not claimed by then is left out.
create function :"schema".claim(cluster_name text, space_name text, member_id uuid, registration bigint, keys text[])
returns text[]
language plpgsql security definer
set search_path = :"schema", pg_temp
set lock_timeout = '500ms'
:planner_settings
as $$
declare
  wanted text[];
  firsts integer[];
  lasts integer[];
  n integer := 1;
  middle integer;
  waits integer := 0;
begin
  if not nameable(keys) or coalesce(octet_length(convert_to(space_name, 'UTF8')) > 255, true) then
    raise exception 'keys must have 1 to 255 bytes of UTF-8, the space at most 255, and none is null'
      using errcode = 'invalid_parameter_value';
  end if;
  if coalesce(keep_current(member_id, registration, false) <> cluster_name, true) then
    raise exception 'registration % of member % is not current', registration, member_id using errcode = 'MB001';
  end if;
  -- Everybody claims in the same order: no two wait for each other.
  select array_agg(w.key order by w.key) into wanted
  from (
    select k.key collate "C" as key from unnest(keys) k (key)
    except
    select c.key
    from unnest(keys) k (key) cross join lateral (
      select c.key from claims c where c.cluster = cluster_name and c.space = space_name and c.key = k.key offset 0
    ) c
  ) w;
  firsts := array[1];
  lasts := array[coalesce(cardinality(wanted), 0)];
  perform set_config('lock_timeout', '50ms', true);
  while n > 0 and waits < 75 loop
    begin
      insert into claims (cluster, space, key, member, token)
      select cluster_name, space_name, k.key, member_id, registration
      from unnest(wanted[firsts[n] : lasts[n]]) k (key)
      on conflict do nothing;
      n := n - 1;
    exception when lock_not_available then
      waits := waits + 1;
      perform set_config('lock_timeout', '2ms', true);
      if firsts[n] = lasts[n] then
        n := n - 1;
      else
        middle := (firsts[n] + lasts[n]) / 2;
        firsts[n + 1] := firsts[n];
        lasts[n + 1] := middle;
        firsts[n] := middle + 1;
        n := n + 1;
      end if;
    end;
  end loop;
  return (
    select coalesce(array_agg(c.key::text), '{}')
    from (select distinct k.key from unnest(keys) k (key)) k cross join lateral (
      select c.key, c.member, c.token from claims c
      where c.cluster = cluster_name and c.space = space_name and c.key = k.key offset 0
    ) c
    where (c.member, c.token) is not distinct from (member_id, registration)
  );
end
$$;

-- Releases those of the keys that are this registration's. Returns those that still are, because a transaction holds
-- them locked (a fence, as a rule): ask again. Where the registration has ended, nothing is left to release.
create function :"schema".release(cluster_name text, space_name text, member_id uuid, registration bigint, keys text[])
returns text[]
language plpgsql security definer
set search_path = :"schema", pg_temp
set lock_timeout = '500ms'
:planner_settings
as $$
begin
  if keys is null then
    raise exception 'keys must not be null' using errcode = 'invalid_parameter_value';
  end if;
  -- While this is under way, a removal skips the member, as it does when somebody has locked it in any other way.
  perform from members m where m.id = member_id and m.token = registration for key share;
  delete from claims c
  where c.ctid = any (array(
    select l.ctid
    from unnest(keys) k (key) cross join lateral (
      select l.ctid from claims l
      where l.cluster = cluster_name and l.space = space_name and l.key = k.key
        and (l.member, l.token) is not distinct from (member_id, registration)
      for update skip locked
    ) l
  ));
  return (
    select coalesce(array_agg(c.key::text), '{}')
    from (select distinct k.key from unnest(keys) k (key)) k cross join lateral (
      select c.key, c.member, c.token from claims c
      where c.cluster = cluster_name and c.space = space_name and c.key = k.key offset 0
    ) c
    where (c.member, c.token) is not distinct from (member_id, registration)
  );
end
$$;

-- Raises MB002 unless the registration is current and all of the keys are its own, and keeps both so until the
-- transaction ends: neither a sweep nor an eviction can remove the registration, and nobody can release the keys. It
-- waits at most 2 seconds for a lock.
create function :"schema".fence_claims(
  cluster_name text, space_name text, member_id uuid, registration bigint, keys text[]
) returns void
language plpgsql security definer
set search_path = :"schema", pg_temp
set lock_timeout = '2s'
:planner_settings
as $$
declare
  own bigint;
begin
  if array_position(keys, null) is not null or keys is null then
    raise exception 'keys must not be null' using errcode = 'invalid_parameter_value';
  end if;
  if coalesce(keep_current(member_id, registration, true) <> cluster_name, true) then
    raise exception 'registration % of member % is not current: its keys may be those of another', registration, member_id
      using errcode = 'MB002', hint = 'Another process may have taken over: roll back.';
  end if;
  select count(*) into own
  from (
    select
    from (select distinct k.key from unnest(keys) k (key)) k cross join lateral (
      select from claims c
      where c.cluster = cluster_name and c.space = space_name and c.key = k.key
        and (c.member, c.token) is not distinct from (member_id, registration)
      for key share
    ) c
  ) locked;
  if own <> (select count(distinct k.key collate "C") from unnest(keys) k (key)) then
    raise exception 'not all of the keys are claimed by registration % of member %', registration, member_id
      using errcode = 'MB002', hint = 'Another process may have taken over: roll back.';
  end if;
end
$$;

-- Which member has which key now.
create view :"schema".claims_now as
select c.cluster, c.space::text, c.key::text, c.member, c.token, :"schema".readable(m.data) as data, c.claimed_at
from :"schema".claims c join :"schema".members m on m.id = c.member and m.token = c.token;

-- ==== down

drop view :"schema".claims_now;
drop function :"schema".fence_claims(text, text, uuid, bigint, text[]);
drop function :"schema".release(text, text, uuid, bigint, text[]);
drop function :"schema".claim(text, text, uuid, bigint, text[]);
drop function :"schema".nameable(text[]);
drop table :"schema".claims;
drop domain :"schema".claim_space;
drop domain :"schema".layer_name;

-- ==== grants: reader

grant select on :"schema".claims, :"schema".claims_now to :"role";

-- ==== grants: member

grant execute on function
  :"schema".claim(text, text, uuid, bigint, text[]), :"schema".release(text, text, uuid, bigint, text[]),
  :"schema".fence_claims(text, text, uuid, bigint, text[]) to :"role";
