-- Nonces: values of which each is used at most once, whatever dies in between.
--
-- The row of a value stays for ever, so that a used value never comes back (promise 19). Which registration has taken a
-- value is a reference to the row of that registration, and is set to null with it: so the values that a dead process
-- had at hand are free again (promise 20). A value is used inside a transaction that depends on the registration that
-- took it. Since nobody else can take a value before that registration has ended, no two transactions use it.
--
-- A value is taken as part of a batch. If the answer is lost, nobody knows that these values are taken. The next batch
-- takes them over before it takes others.

create table :"schema".nonces (
  cluster  text        not null,
  name     :"schema".layer_name not null,
  value    :"schema".layer_name not null,
  member   uuid,
  token    bigint,
  batch    uuid,
  taken_at timestamptz,
  used_at  timestamptz,
  primary key (cluster, name, value),
  foreign key (member, token) references :"schema".members (id, token) match full on delete set null
) with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 500);
create index nonces_free on :"schema".nonces (cluster, name, value) where member is null and used_at is null;
-- By this a registration's values are found when it ends.
create index nonces_of_registration on :"schema".nonces (member, token, batch) where member is not null;
comment on table :"schema".nonces is
  'The values of all pools: free, taken by a registration, or used. Used ones stay, so that they never come back.';
comment on column :"schema".nonces.member is 'Who has taken the value; null: nobody, or it is used.';
comment on column :"schema".nonces.batch is 'With which others it was taken; of no meaning where nobody has it.';

-- What was used stays used, also for SQL that somebody types. The owner may delete rows of values that nobody will ever
-- stock again.
create function :"schema".nonces_refused() returns trigger
language plpgsql
set search_path = :"schema", pg_temp
as $$
begin
  raise exception 'a used nonce stays as it is: it could be used again'
    using errcode = 'integrity_constraint_violation', hint = 'Stock another value.';
end
$$;
create trigger nonces_used after update of cluster, name, value, used_at on :"schema".nonces
  for each row when (
    old.used_at is not null and (
      new.used_at is null or (old.cluster, old.name, old.value) is distinct from (new.cluster, new.name, new.value)
    )
  ) execute function :"schema".nonces_refused();

-- Adds values to a pool, and returns how many were new. Those that are known are left alone, used or not.
create function :"schema".stock_nonces(cluster_name text, pool_name text, stocked text[]) returns integer
language plpgsql security definer
set search_path = :"schema", pg_temp
set lock_timeout = '1s'
:planner_settings
as $$
declare
  added integer;
begin
  if not nameable(stocked) or not nameable(array[cluster_name, pool_name]) then
    raise exception 'the cluster, the pool and each value must have 1 to 255 bytes of UTF-8, and none is null'
      using errcode = 'invalid_parameter_value';
  end if;
  -- Everybody adds in the same order: no two wait for each other.
  insert into nonces (cluster, name, value)
  select cluster_name, pool_name, s.value from unnest(stocked) s (value) order by s.value collate "C"
  on conflict do nothing;
  get diagnostics added = row_count;
  return added;
end
$$;

-- Takes up to this many values for a registration, as one batch, and returns them: first those of lost batches, whose
-- answers its process never got, then free ones. Waits for no row. Raises MB001 unless the registration is current.
create function :"schema".take_nonces(
  cluster_name text, pool_name text, member_id uuid, registration bigint, new_batch uuid, lost uuid[], most integer
) returns text[]
language plpgsql security definer
set search_path = :"schema", pg_temp
set lock_timeout = '500ms'
:planner_settings
as $$
declare
  taken text[];
  places tid[];
begin
  if new_batch is null or lost is null or array_position(lost, null) is not null
    or coalesce(most not between 1 and 10000, true) then
    raise exception 'the batches must not be null, and most must be 1 to 10000'
      using errcode = 'invalid_parameter_value';
  end if;
  if coalesce(keep_current(member_id, registration, false) <> cluster_name, true) then
    raise exception 'registration % of member % is not current', registration, member_id using errcode = 'MB001';
  end if;
  select array_agg(n.value::text), array_agg(n.ctid) into taken, places
  from (
    select n.value, n.ctid from nonces n
    where n.member = member_id and n.token = registration and n.batch = any (lost)
      and n.cluster = cluster_name and n.name = pool_name
    limit most for update skip locked
  ) n;
  taken := coalesce(taken, '{}');
  select taken || array_agg(n.value::text), places || array_agg(n.ctid) into taken, places
  from (
    select n.value, n.ctid from nonces n
    where n.cluster = cluster_name and n.name = pool_name and n.member is null and n.used_at is null
    limit most - cardinality(taken) for update skip locked
  ) n;
  -- By ctid, which is safe because the rows are locked. By value = any (taken), PostgreSQL 14 without statistics reads the
  -- whole pool.
  update nonces n
  set member = member_id, token = registration, batch = new_batch, taken_at = clock_timestamp()
  where n.ctid = any (places);
  return taken;
end
$$;

-- Uses a value for good, if the transaction commits. Raises MB001 unless the registration that took it in this batch is
-- current and still has it: it is used, given back, or another's. Keeps the registration from being removed until the
-- transaction ends. It waits at most 2 seconds for a lock.
create function :"schema".use_nonce(
  cluster_name text, pool_name text, member_id uuid, registration bigint, taken_batch uuid, nonce text
) returns void
language plpgsql security definer
set search_path = :"schema", pg_temp
set lock_timeout = '2s'
:planner_settings
as $$
begin
  if coalesce(keep_current(member_id, registration, true) <> cluster_name, true) then
    raise exception 'registration % of member % is not current: its nonces may be those of another', registration, member_id
      using errcode = 'MB001', hint = 'Roll back.';
  end if;
  update nonces n set used_at = clock_timestamp(), member = null, token = null, batch = null
  where n.cluster = cluster_name and n.name = pool_name and n.value = nonce
    and n.member = member_id and n.token = registration and n.batch = taken_batch;
  if not found then
    raise exception 'registration % of member % does not have this nonce any more', registration, member_id
      using errcode = 'MB001', hint = 'It was used or given back: roll back.';
  end if;
end
$$;

-- Gives back values that a registration took, each in the batch beside it, and all of the lost batches. What is used
-- stays so. Returns those that the registration still has, because a transaction holds them locked: ask again.
create function :"schema".return_nonces(
  cluster_name text, pool_name text, member_id uuid, registration bigint, returned text[], batches uuid[], lost uuid[]
) returns text[]
language plpgsql security definer
set search_path = :"schema", pg_temp
set lock_timeout = '500ms'
:planner_settings
as $$
declare
  places tid[];
begin
  if cardinality(returned) is distinct from cardinality(batches) or returned is null or lost is null then
    raise exception 'returned and batches must be arrays of one length, and no array is null'
      using errcode = 'invalid_parameter_value';
  end if;
  -- While this is under way, a removal skips the member, as it does when somebody has locked it in any other way.
  perform from members m where m.id = member_id and m.token = registration for key share;
  places := array(
    select n.ctid from nonces n
    where n.member = member_id and n.token = registration and n.cluster = cluster_name and n.name = pool_name
      and n.batch = any (lost || batches)
      and (n.batch = any (lost) or (n.value, n.batch) in (select r.value, r.batch from unnest(returned, batches) r (value, batch)))
    for update skip locked
  );
  update nonces n set member = null, token = null, batch = null, taken_at = null where n.ctid = any (places);
  return array(
    select n.value::text from unnest(returned, batches) r (value, batch)
    join nonces n on n.cluster = cluster_name and n.name = pool_name and n.value = r.value
    where n.member = member_id and n.token = registration and n.batch = r.batch
  );
end
$$;

-- Each value of each pool, and who has it. To count them: group by cluster, name and state.
create view :"schema".nonces_now as
select n.cluster, n.name::text, n.value::text,
  case when n.used_at is not null then 'used' when n.member is not null then 'taken' else 'free' end as state,
  n.member, n.token, :"schema".readable(m.data) as data, case when n.member is not null then n.taken_at else null end as taken_at,
  n.used_at
from :"schema".nonces n left join :"schema".members m on m.id = n.member and m.token = n.token;

-- ==== down

drop view :"schema".nonces_now;
drop function :"schema".return_nonces(text, text, uuid, bigint, text[], uuid[], uuid[]);
drop function :"schema".use_nonce(text, text, uuid, bigint, uuid, text);
drop function :"schema".take_nonces(text, text, uuid, bigint, uuid, uuid[], integer);
drop function :"schema".stock_nonces(text, text, text[]);
drop table :"schema".nonces;
drop function :"schema".nonces_refused();

-- ==== grants: reader

grant select on :"schema".nonces, :"schema".nonces_now to :"role";

-- ==== grants: member

grant execute on function
  :"schema".stock_nonces(text, text, text[]),
  :"schema".take_nonces(text, text, uuid, bigint, uuid, uuid[], integer),
  :"schema".use_nonce(text, text, uuid, bigint, uuid, text),
  :"schema".return_nonces(text, text, uuid, bigint, text[], uuid[], uuid[]) to :"role";
