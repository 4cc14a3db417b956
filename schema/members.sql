-- The members: one row each, and the triggers of the table.
--
-- The row is there as long as the registration lasts. Both for the library and for a person in psql, the triggers
-- number each change and write it to the log, so readers are told of it (promises 2 and 4). Nobody,
-- not even the owner, changes the id, the cluster or the token of a registration.

create domain :"schema".member_data as bytea check (octet_length(value) <= 1048576);
-- A ttl has no months: '1 mon -29 days' equals one day, and can last three.
create domain :"schema".member_ttl as interval check (
  value between interval '1 second' and interval '1 day'
  and extract(month from value) = 0 and extract(year from value) = 0);
create domain :"schema".member_crash_grace as interval check (
  value > interval '0' and value <= interval '12 hours'
  and extract(month from value) = 0 and extract(year from value) = 0);

-- No index may name a column that heartbeats write (heartbeat_at, suspected_at, session, session_role). It would
-- end HOT updates, and the table would grow with each heartbeat.
create table :"schema".members (
  id            uuid        primary key,
  cluster       text        not null,
  data          :"schema".member_data not null default '',
  revision      bigint      not null default 0,
  -- Below zero, and different for each row, until the insert trigger assigns the real one.
  token         bigint      not null default -(1 + random() * 9e15)::bigint,
  ttl           :"schema".member_ttl not null default interval '15 seconds',
  crash_grace   :"schema".member_crash_grace,
  registered_at timestamptz not null default clock_timestamp(),
  heartbeat_at  timestamptz not null default clock_timestamp(),
  session       text,
  session_role  oid,
  suspected_at  timestamptz,
  draining_since timestamptz,
  unique (id, token)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 500);
create unique index members_in_order on :"schema".members (cluster, token);
comment on table :"schema".members is
  'The members of all clusters. Reference members(id), or one registration''s (id, token), with on delete cascade or set null.';
comment on column :"schema".members.revision is 'The revision of the event that shows this row as it is.';
comment on column :"schema".members.token is 'The number of this registration, higher than every earlier one of its cluster.';
comment on column :"schema".members.ttl is 'How long this member may be silent before others may remove it.';
comment on column :"schema".members.crash_grace is
  'How long all its connections may be gone before it counts as crashed; null: wait for the ttl.';
comment on column :"schema".members.session is 'application_name of its process; null when connections do not show it (poolers).';
comment on column :"schema".members.session_role is
  'The role that the process connected as. The same name on a connection of another role does not count.';
comment on column :"schema".members.suspected_at is 'When its process was found to have no connection; null when it has one.';
comment on column :"schema".members.draining_since is
  'When it was asked to leave: its heartbeats do not renew it any more. Null: it may stay.';

-- Whether the arguments of a function name registrations: as many numbers as ids, no id twice, no null.
-- A comparison with null is neither true nor false: a null as a floor once led to a token that was given twice.
create function :"schema".well_formed(ids uuid[], numbers bigint[]) returns boolean
language plpgsql immutable parallel safe
set search_path = :"schema", pg_temp
as $$
begin
  if cardinality(ids) = 1 and cardinality(numbers) = 1 then
    return coalesce(ids[1] is not null and numbers[1] >= 0, false);
  end if;
  return coalesce(
    cardinality(ids) = cardinality(numbers) and cardinality(ids) = (select count(distinct id) from unnest(ids) id)
      and array_position(numbers, null) is null and 0 <= all (numbers),
    false);
end
$$;

-- Numbers and logs rows that somebody typed, which have no event yet.
-- It leaves alone rows that have one: register() numbers and logs its rows by itself, which is cheaper than a
-- second UPDATE, and pg_restore may put a row back beside its log. In both cases the event of the row's revision
-- shows the row as it is. It refuses a row of a registration that has ended: other tokens may have followed, and
-- the readers must be told of a new one.
create function :"schema".members_inserted() returns trigger
language plpgsql security definer
set search_path = :"schema", pg_temp
:planner_settings
as $$
declare
  typed_ids uuid[];
  typed record;
  head clusters;
  moment timestamptz;
begin
  -- Not EXISTS in the first half: the planner could hash that, and read the whole log. The second half compares
  -- rows, which names the index: schema.sql says why.
  select array_agg(i.id) into typed_ids
  from inserted i
  where (
      select true from events e
      where e.cluster = i.cluster and e.revision = i.revision and e.member = i.id and e.token = i.token
        and e.kind <> 'left' and e.registered_at = i.registered_at and e.data = i.data
    ) is null
    or exists (
      select from events e
      where e.member = i.id and (e.member, e.at) >= (i.id, i.registered_at) and e.revision > i.revision
        and e.token = i.token and e.cluster = i.cluster
    );
  if typed_ids is null then
    return null;
  end if;
  for typed in
    select i.cluster, array_agg(i.id order by i.id) as ids, max(i.token) as highest_token
    from inserted i where i.id = any (typed_ids)
    group by i.cluster order by i.cluster
  loop
    if typed.highest_token > 0 then
      raise exception 'members.token is assigned by the cluster: leave it out'
        using errcode = 'integrity_constraint_violation',
          hint = 'A registration that has ended is not put back: insert id, cluster, data, ttl and crash_grace only.';
    end if;
    head := advance(typed.cluster, cardinality(typed.ids), 0);
    moment := clock_timestamp();
    update members m set
      token = head.last_token - cardinality(typed.ids) + ranked.n,
      revision = head.revision - cardinality(typed.ids) + ranked.n,
      registered_at = moment,
      heartbeat_at = moment
    from unnest(typed.ids) with ordinality ranked (id, n)
    where m.id = ranked.id;
    insert into events (cluster, revision, stamp, at, kind, reason, member, token, registered_at, data)
    select m.cluster, m.revision, head.stamp, m.registered_at,
      'joined', 'registered', m.id, m.token, m.registered_at, m.data
    from members m where m.id = any (typed.ids);
  end loop;
  return null;
end
$$;

-- Numbers and logs rows that are deleted. The reason is always 'removed': remove_members() corrects it. If the member
-- was evicted or drained, the log says by which role, and the note, whichever statement deletes the row in the end.
create function :"schema".members_deleted() returns trigger
language plpgsql security definer
set search_path = :"schema", pg_temp
:planner_settings
as $$
declare
  emptied record;
  head clusters;
  moment timestamptz;
begin
  for emptied in select d.cluster, count(*) as leavers from deleted d group by d.cluster order by d.cluster loop
    head := advance(emptied.cluster, emptied.leavers);
    moment := clock_timestamp();
    insert into events (cluster, revision, stamp, at, kind, reason, member, token, registered_at, by_role, note)
    select d.cluster, head.revision - emptied.leavers + row_number() over (order by d.token), head.stamp,
      greatest(moment, d.registered_at), 'left', 'removed', d.id, d.token, d.registered_at,
      coalesce(v.by_role, session_user), v.note
    from deleted d
    -- For a member that may stay this compares with null, which costs no look at the index.
    left join evictions v on v.cluster = d.cluster and v.member = case when d.draining_since is not null then d.id end
    where d.cluster = emptied.cluster;
  end loop;
  return null;
end
$$;

-- Numbers and logs a change of what snapshots show of a member: its data, and when it registered, which only a
-- person changes. A change by set_data() is in the log already.
create function :"schema".members_changed() returns trigger
language plpgsql security definer
set search_path = :"schema", pg_temp
:planner_settings
as $$
declare
  head clusters;
begin
  if new.revision > old.revision and exists (
    select from events e
    where e.cluster = new.cluster and e.revision = new.revision and e.member = new.id and e.token = new.token
      and e.kind = 'updated' and e.registered_at = new.registered_at and e.data = new.data
  ) then
    return null;
  end if;
  head := advance(new.cluster, 1);
  insert into events (cluster, revision, stamp, at, kind, reason, member, token, registered_at, data)
  values (new.cluster, head.revision, head.stamp, greatest(clock_timestamp(), new.registered_at),
    'updated', 'data', new.id, new.token, new.registered_at, new.data);
  update members m set revision = head.revision where m.id = new.id;
  return null;
end
$$;

create function :"schema".members_refused() returns trigger
language plpgsql
set search_path = :"schema", pg_temp
as $$
begin
  raise exception '% of members is refused: %', tg_op, case tg_op
      when 'TRUNCATE' then 'use DELETE, which tells the readers'
      else 'id, cluster and token of a registration never change'
    end using errcode = 'integrity_constraint_violation';
end
$$;

create trigger members_inserted after insert on :"schema".members
  referencing new table as inserted for each statement execute function :"schema".members_inserted();
create trigger members_deleted after delete on :"schema".members
  referencing old table as deleted for each statement execute function :"schema".members_deleted();
create trigger members_changed after update of data, registered_at on :"schema".members
  for each row when (old.token > 0 and (old.data <> new.data or old.registered_at <> new.registered_at))
  execute function :"schema".members_changed();
-- After the update, not before it: a trigger before an update makes every update look for its row a second time,
-- those of heartbeats too.
create trigger members_identity after update of id, cluster, token on :"schema".members
  for each row when (
    old.id <> new.id or old.cluster <> new.cluster or (old.token <> new.token and old.token > 0)
  ) execute function :"schema".members_refused();
create trigger members_truncate before truncate on :"schema".members
  for each statement execute function :"schema".members_refused();

-- ==== down

drop table :"schema".members;
drop function :"schema".members_refused();
drop function :"schema".members_changed();
drop function :"schema".members_deleted();
drop function :"schema".members_inserted();
drop function :"schema".well_formed(uuid[], bigint[]);
drop domain :"schema".member_crash_grace;
drop domain :"schema".member_ttl;
drop domain :"schema".member_data;

-- ==== grants: reader

grant select on :"schema".members to :"role";
