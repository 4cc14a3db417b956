-- Assembled from schema/ by `npm run schema`: change it there, not here.

-- From here to the last statement, names are PostgreSQL's own, whatever search_path is. In a transaction nothing of
-- this outlives it.
do $$ begin
  perform pg_catalog.set_config('pgmembership.transaction', pg_catalog.pg_current_xact_id()::pg_catalog.text, true);
end $$;
do $$ declare
  is_inside constant boolean := coalesce(pg_catalog.current_setting('pgmembership.transaction', true)
    operator(pg_catalog.=) pg_catalog.pg_current_xact_id()::pg_catalog.text, false);
begin
  perform pg_catalog.set_config('pgmembership.path', pg_catalog.current_setting('search_path'), is_inside);
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', is_inside);
end $$;

-- schema ------------------------------------------------------------------------------------------

-- pg-membership, version 1 of the schema.
--
-- `pg-membership migrate` runs it, or psql: psql -1 -v schema=pgmembership -f 0001_membership.up.sql
--
-- This part is the schema itself, its version, and the rules that hold for every function and table in it.
--
-- psql replaces a colon and a name in double quotes by a variable, in quotes. It does not do so between $$ and $$:
-- therefore each function sets its own search_path, and writes its tables without a schema.
--
-- What is made here is bound for ever to what search_path finds now: types, and the functions and operators in checks,
-- defaults, views and bodies without a text. So the first statements of each file leave only PostgreSQL's own names in
-- the path of whoever runs it, and the last statement puts that path back.
--
-- Locks are taken in one order everywhere: rows of members by id, then the row of clusters. A deadlock is still
-- possible (an UPDATE of many rows that somebody types can cause one). The library then tries again.
--
-- A definer function (security definer) runs with the rights of the schema's owner. Its caller must not be able
-- to change what it does. So it sets search_path and every setting that matters, checks its arguments, and runs
-- nothing that the caller has queued (deferred triggers).
--
-- Rows to update are named by an array (`id = any (array(select ...))`), not by a subquery: the planner may join a
-- subquery by a nested loop, because its statistics are from a time when the table was empty. A thousand members
-- are then a million steps.
--
-- Functions that are called all the time also set how they are planned. Without plan_cache_mode a statement with
-- an array is planned again at each call. A generic plan does not know how many rows there are: it is told to use
-- the indexes, which is right for one row and for thousands. The log was empty when the planner looked at it, so
-- its searches use a row comparison, `(e.member, e.at) >= (...)`: only one index begins with these columns.

-- Makes the schema, if it is not there. Code in a schema runs as whoever calls it, and what it calls is looked for in the
-- schema. So nothing is made in a schema that another role owns, or may create in, and nothing that is there is called
-- before this is known. psql replaces no variable inside of the block: a setting of our own tells the name.
set pgmembership.schema = :"schema";
do $owner$
declare
  schema constant pg_catalog.text := pg_catalog.current_setting('pgmembership.schema');
  path constant pg_catalog.text := pg_catalog.current_setting('search_path');
  place pg_catalog.record;
  wrong pg_catalog.record;
begin
  -- From here on a name is PostgreSQL's own, whatever stands in the path of the installer.
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  if not exists (select from pg_namespace where nspname = schema) then
    execute format('create schema %I', schema);
    -- Default privileges may have given it to others already.
    for wrong in
      select distinct coalesce(g.rolname, 'public') as who
      from pg_namespace n cross join aclexplode(n.nspacl) a left join pg_roles g on g.oid = a.grantee
      where n.nspname = schema and a.grantee <> n.nspowner
    loop
      execute format('revoke all on schema %I from %I cascade', schema, wrong.who);
    end loop;
  end if;
  select n.oid, case when r.rolname = 'pg_database_owner' then d.datdba else n.nspowner end as owner into place
  from pg_namespace n join pg_roles r on r.oid = n.nspowner join pg_database d on d.datname = current_database()
  where n.nspname = schema;
  if pg_get_userbyid(place.owner) <> current_user then
    raise exception 'schema % is owned by role %, not by %', schema, pg_get_userbyid(place.owner), current_user
      using errcode = 'insufficient_privilege',
        hint = 'Choose another name; or run this as that role (set role), or give it to this one (alter schema ... owner to ...).';
  end if;
  select coalesce(g.rolname, 'public') as who into wrong
  from pg_namespace n cross join aclexplode(n.nspacl) a left join pg_roles g on g.oid = a.grantee
  where n.oid = place.oid and a.privilege_type = 'CREATE' and a.grantee not in (n.nspowner, place.owner)
    and not coalesce(g.rolsuper, false);
  if wrong.who is not null then
    raise exception 'role % may create objects in schema %', wrong.who, schema
      using errcode = 'insufficient_privilege',
        hint = format('Choose another name, or run: revoke create on schema %I from %I', schema, wrong.who);
  end if;
  select pg_describe_object(o.kind, o.oid, 0) as what, pg_get_userbyid(o.owner) as who into wrong
  from (
    select 'pg_class'::regclass as kind, oid, relowner as owner from pg_class where relnamespace = place.oid
    union all select 'pg_proc'::regclass, oid, proowner from pg_proc where pronamespace = place.oid
    union all select 'pg_type'::regclass, oid, typowner from pg_type where typnamespace = place.oid
    union all select 'pg_operator'::regclass, oid, oprowner from pg_operator where oprnamespace = place.oid
  ) o
  where o.owner <> place.owner;
  if wrong.what is not null then
    raise exception 'schema % has an object of role %: %', schema, wrong.who, wrong.what
      using errcode = 'insufficient_privilege', hint = 'Choose another name, or drop what is not yours.';
  end if;
  perform set_config('search_path', path, true);
end
$owner$;
reset pgmembership.schema;

-- Code of version v works with a schema when compatible_from <= v <= version.
create function :"schema".schema_version(out version integer, out compatible_from integer)
language sql immutable parallel safe
set search_path = :"schema", pg_temp
as $$ select 1, 1 $$;

-- order -------------------------------------------------------------------------------------------

-- The order of changes: clusters, their revisions, and the log.
--
-- Each change of membership raises the revision of its cluster by one, and has one row in events. The row of
-- clusters stays locked until the transaction ends, so the order of revisions is the order of commits, without
-- gaps (promise 4). The stamp is new at each change: after a failover that lost commits, two histories can have
-- the same revision, and the stamp tells them apart.
--
-- Domains say what columns may hold, here and for members. Each statement, also a heartbeat, would read and compile
-- a check of the table again.

create domain :"schema".event_kind as text check (value in ('joined', 'updated', 'left'));
create domain :"schema".event_reason as text check (
  value in ('registered', 'data', 'deregistered', 'expired', 'crashed', 'removed', 'superseded'));
create domain :"schema".event_note as text check (length(value) between 1 and 1000);

create table :"schema".clusters (
  name       text   primary key check (octet_length(convert_to(name, 'UTF8')) between 1 and 255),
  revision   bigint not null default 0,
  last_token bigint not null default 0,
  stamp      uuid   not null default gen_random_uuid(),
  previous_stamp uuid,
  channel    text   not null,
  channel_stamp uuid not null default gen_random_uuid()
);
comment on table :"schema".clusters is
  'One row per cluster. Only a change of membership touches it. Its row lock makes the order of revisions the order of commits.';
comment on column :"schema".clusters.revision is 'Raised once per change of membership, without gaps.';
comment on column :"schema".clusters.last_token is 'The highest token handed out.';
comment on column :"schema".clusters.stamp is
  'New at each change. It tells apart two histories with equal revisions, after a failover that lost commits.';
comment on column :"schema".clusters.previous_stamp is 'The stamp before the last change, which may be many rows.';
comment on column :"schema".clusters.channel is 'The channel of the hints. It is computed once, because computing it costs more than a change.';
comment on column :"schema".clusters.channel_stamp is
  'New when the members'' channel gets another name and key. By it members find out that they have to ask for these.';

create table :"schema".events (
  cluster       text        not null,
  revision      bigint      not null,
  stamp         uuid        not null,
  at            timestamptz not null,
  kind          :"schema".event_kind not null,
  reason        :"schema".event_reason not null,
  member        uuid        not null,
  token         bigint      not null,
  registered_at timestamptz not null,
  data          bytea,
  -- The role that logged in, not the one that owns a function, nor one that SET ROLE names.
  by_role       text        not null default session_user,
  note          :"schema".event_note
);
-- The column kind is last in this index, so that the few stays among many changes are found without a look at the
-- table. The column revision is there because times can be equal, after the clock went back: the latest event
-- still says what a member carried.
create index events_of_member on :"schema".events (member, at, revision, kind);
create index events_in_time on :"schema".events (cluster, at, kind);
-- Made after the others: where indexes seem equally good, because the log is still empty, the planner takes the newest.
alter table :"schema".events add primary key (cluster, revision);
comment on table :"schema".events is 'One row per change. Readers refresh from it, and people audit it.';
comment on column :"schema".events.at is 'Never before registered_at, and equal to it for joined.';
comment on column :"schema".events.data is 'What the member carries from here on; null for left.';
comment on column :"schema".events.by_role is
  'The role that made the change, as it logged in. If a member was evicted or drained, the role that did so.';
comment on column :"schema".events.note is 'Why the member was evicted or drained; null for every other change.';

-- Raises the revision, and locks the cluster until the transaction ends. With token_floor it also reserves one
-- token per change: the highest one is last_token of the returned row. At commit, announce() tells the readers.
create function :"schema".advance(cluster_name text, changes bigint, token_floor bigint default null)
returns :"schema".clusters
language plpgsql
set search_path = :"schema", pg_temp
as $$
declare
  head clusters;
begin
  loop
    update clusters c set
      revision = c.revision + changes,
      last_token = case
        when token_floor is null then c.last_token
        else greatest(c.revision, c.last_token, token_floor) + changes
      end,
      previous_stamp = c.stamp,
      stamp = gen_random_uuid()
    where c.name = cluster_name
    returning * into head;
    exit when found;
    insert into clusters (name) values (cluster_name) on conflict do nothing;
  end loop;
  return head;
end
$$;

-- The channel follows from the name, whatever is written by hand. The name never changes: members and log would be
-- those of a cluster that is not there, and the new one would have none.
create function :"schema".clusters_named() returns trigger
language plpgsql
set search_path = :"schema", pg_temp
as $$
begin
  if tg_op = 'UPDATE' then
    if new.name <> old.name then
      raise exception 'the name of a cluster never changes: its members and its log would not follow'
        using errcode = 'integrity_constraint_violation', hint = 'Processes choose the name: let them join another cluster.';
    end if;
  end if;
  new.channel := channel(new.name);
  return new;
end
$$;

-- Without its row a cluster would begin again at revision 1, which its log has already. With another position, readers
-- would take one history for another, and a token could be given twice.
create function :"schema".clusters_refused() returns trigger
language plpgsql
set search_path = :"schema", pg_temp
as $$
begin
  if tg_op = 'DELETE' then
    if not exists (select from events e where e.cluster = old.name)
      and not exists (select from members m where m.cluster = old.name) then
      return old;
    end if;
  end if;
  raise exception '% of clusters is refused: the log would not fit what follows', tg_op
    using errcode = 'integrity_constraint_violation', hint = case tg_op
      when 'UPDATE' then 'Only a change of membership raises the revision.'
      else 'When its members have left, use drop_cluster(name).' end;
end
$$;

-- What the log says of a change never changes: readers that have not read it yet would see another history than those
-- that have. Trimming deletes.
create function :"schema".events_refused() returns trigger
language plpgsql
set search_path = :"schema", pg_temp
as $$
begin
  raise exception 'UPDATE of events is refused: readers have seen what they say'
    using errcode = 'integrity_constraint_violation', hint = 'Change the member: that is a new event.';
end
$$;

create trigger clusters_named before insert or update of name, channel on :"schema".clusters
  for each row execute function :"schema".clusters_named();
create trigger clusters_deleted before delete on :"schema".clusters
  for each row execute function :"schema".clusters_refused();
create trigger clusters_truncate before truncate on :"schema".clusters
  for each statement execute function :"schema".clusters_refused();
-- After the update, where a condition that is false costs nothing that can be measured: advance() updates all these.
create trigger clusters_position after update of revision, last_token, stamp, previous_stamp on :"schema".clusters
  for each row when (
    new.revision < old.revision or new.last_token < old.last_token
    or new.revision = old.revision
      and (new.stamp <> old.stamp or new.previous_stamp is distinct from old.previous_stamp)
    or new.revision > old.revision and (new.stamp = old.stamp or new.previous_stamp is distinct from old.stamp)
  ) execute function :"schema".clusters_refused();
create trigger events_changed after update of cluster, revision, stamp, kind, member, token, data on :"schema".events
  for each row when (
    (old.cluster, old.revision, old.stamp, old.kind, old.member, old.token)
      is distinct from (new.cluster, new.revision, new.stamp, new.kind, new.member, new.token)
    or old.data is distinct from new.data
  ) execute function :"schema".events_refused();

-- members -----------------------------------------------------------------------------------------

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
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_memoize = off
set jit = off
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
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_memoize = off
set jit = off
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
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_memoize = off
set jit = off
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

-- announcing --------------------------------------------------------------------------------------

-- Announcing: how readers and members are told of a change, within milliseconds.
--
-- A hint goes to everybody who may connect: its payload is empty, and it proves nothing. An announcement goes to
-- members, with the changes and their data, on a channel whose name is random, signed with a key that only members
-- are told. Both are sent when the transaction commits. Neither is needed for a correct answer: a process that
-- hears nothing reads at the next heartbeat or poll (promise 2). No notification may make a commit fail.

-- The hint channel of a cluster: 40 ASCII bytes, whatever the names are. LISTEN would cut a longer one, and the
-- whole database shares its channels. Both names go in with their lengths, so that no two pairs give the same text.
create function :"schema".channel(cluster_name text) returns text
language sql stable
set search_path = :"schema", pg_temp
as $$
  select 'member_' || encode(substr(sha256(
    int4send(octet_length(convert_to(current_schema(), 'UTF8'))) || convert_to(current_schema(), 'UTF8') ||
    int4send(octet_length(convert_to(cluster_name, 'UTF8'))) || convert_to(cluster_name, 'UTF8')
  ), 1, 16), 'hex')
$$;

-- Anybody who can connect may LISTEN on a channel whose name he knows, and announcements carry data: so the name
-- is random. By the key, members tell an announcement from what anybody may send. Members are told both by
-- members_channel(), and nobody is granted this table. The code is HMAC-SHA256; inner_pad and outer_pad are its
-- two pads, with the key mixed in beforehand.
create table :"schema".members_channels (
  cluster   text  primary key check (octet_length(convert_to(cluster, 'UTF8')) between 1 and 255),
  name      text  not null check (name ~ '^members_[0-9a-f]{32}$'),
  key       bytea not null,
  inner_pad bytea not null,
  outer_pad bytea not null,
  made_in   text  not null
);
comment on column :"schema".members_channels.made_in is
  'database_identity() of the database that made the key. In a copy, that database still believes the key.';

-- Tells this database from a copy of it, but for one of all files of the server (a base backup, a snapshot of the disk).
create function :"schema".database_identity() returns text
language plpgsql stable
set search_path = :"schema", pg_temp
as $$
declare
  server text := 'unknown';
begin
  if has_function_privilege('pg_catalog.pg_control_system()', 'execute') then
    select s.system_identifier::text into server from pg_control_system() s;
  end if;
  return (select format('database %s of server %s', d.oid, server) from pg_database d where d.datname = current_database());
end
$$;

-- Makes a new name and key. The two pads of HMAC are 64 bytes each, mixed with the key.
create function :"schema".new_members_channel(cluster_name text) returns :"schema".members_channels
language plpgsql
set search_path = :"schema", pg_temp
as $$
declare
  made members_channels;
begin
  made.cluster := cluster_name;
  made.name := 'members_' || replace(gen_random_uuid()::text, '-', '');
  made.key := sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
  made.inner_pad := decode(repeat('36', 64), 'hex');
  made.outer_pad := decode(repeat('5c', 64), 'hex');
  for n in 0 .. 31 loop
    made.inner_pad := set_byte(made.inner_pad, n, 54 # get_byte(made.key, n));
    made.outer_pad := set_byte(made.outer_pad, n, 92 # get_byte(made.key, n));
  end loop;
  made.made_in := database_identity();
  return made;
end
$$;

-- A key without its pads, or another key under the old name, would let members take every announcement for a forged
-- one, without a sign.
create function :"schema".members_channels_refused() returns trigger
language plpgsql
set search_path = :"schema", pg_temp
as $$
begin
  raise exception 'UPDATE of members_channels is refused: name, key and pads fit one another'
    using errcode = 'integrity_constraint_violation', hint = 'Use renew_members_channel(cluster).';
end
$$;
create trigger members_channels_changed after update on :"schema".members_channels
  for each row when (
    old.cluster <> new.cluster or old.name = new.name or old.key = new.key
    or old.inner_pad = new.inner_pad or old.outer_pad = new.outer_pad
  ) execute function :"schema".members_channels_refused();

-- Tells a member where changes are announced, and the key of their codes. The first call makes them. They are a
-- result, and never in the text of a statement, which others may see. The stamp is that of the cluster, which heartbeats
-- and reads tell as well: when they tell another, ask again. It is null before the first change of the cluster.
create function :"schema".members_channel(cluster_name text, out name text, out key bytea, out stamp uuid)
language plpgsql security definer
set search_path = :"schema", pg_temp
set lock_timeout = '500ms'
as $$
begin
  loop
    select m.name, m.key, c.channel_stamp into name, key, stamp
    from members_channels m left join clusters c on c.name = m.cluster
    where m.cluster = cluster_name;
    exit when found;
    insert into members_channels select * from new_members_channel(cluster_name) on conflict do nothing;
  end loop;
end
$$;

-- Notifies readers and members of a change, at the commit of its transaction.
--
-- A hint says that something has changed. An *announcement* on the members' channel says what has changed. There is
-- one for each time that the transaction advanced the cluster, or several where one payload (8,000 bytes) is too small:
--
--   the code of all that follows, in hex
--   channel server, revision and stamp before, revision and stamp after, last revision of the transaction, first revision here
--   one line for each change: kind, id, token, registered_at in milliseconds, data in base64
--
-- A change that does not fit, or changes of more than 100,000 characters, are announced without their lines: then
-- members read.
--
-- A full queue of notifications would make the commit fail. The queue shows nothing of this transaction before that, and
-- since PostgreSQL 17 it may be as small as 64 pages. So the transaction counts what it has announced, in a setting of
-- its own. When that is much for what is free, it only announces where the cluster is in the end, which is one
-- notification, however many changes follow. When it is too much, or the queue is nearly full, nothing is sent, and readers
-- find out by heartbeats and polls. Whoever changes the setting only makes his own transaction fail, or tell less.
create function :"schema".announce() returns trigger
language plpgsql security definer
set search_path = :"schema", pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_memoize = off
set jit = off
as $$
declare
  secret record;
  lines text[];
  page text := '';
  first bigint := old.revision + 1;
  pages text[];
  firsts bigint[];
  characters integer := 0;
  earlier bigint;
  announced bigint;
  free float8;
  header text;
  body text;
begin
  if pg_notification_queue_usage() >= 0.9 then
    return null;
  end if;
  select m.name, m.inner_pad, m.outer_pad, c.revision, c.stamp, pg_notify(new.channel, '') as hinted,
    current_setting('pgmembership.announced', true) as counted
  into secret
  from clusters c left join members_channels m on m.cluster = c.name
  where c.name = new.name;
  if secret.name is null then
    return null;
  end if;
  if new.revision - old.revision <= 1000 then
    select array_agg(chr(10) || left(e.kind, 1) || ' ' || e.member || ' ' || e.token || ' '
        || floor(extract(epoch from e.registered_at) * 1000) || ' '
        || case when e.data is null then '' when octet_length(e.data) <= 5500 then translate(encode(e.data, 'base64'), chr(10), '') end
      order by e.revision)
    into lines
    from events e
    where e.cluster = new.name and e.revision > old.revision and e.revision <= new.revision;
  end if;
  for n in 1 .. coalesce(cardinality(lines), 0) loop
    characters := characters + length(lines[n]);
    if lines[n] is null or characters > 100000 then
      pages := null;
      firsts := null;
      first := old.revision + 1;
      page := '';
      characters := 0;
      exit;
    end if;
    if length(page) + length(lines[n]) > 7500 then
      pages := pages || page;
      firsts := firsts || first;
      page := '';
      first := old.revision + n;
    end if;
    page := page || lines[n];
  end loop;
  pages := pages || page;
  firsts := firsts || first;
  earlier := case
    when split_part(secret.counted, ' ', 1) = pg_current_xact_id()::text then split_part(secret.counted, ' ', 2)::bigint
    else 0
  end;
  -- 450 for what is around the lines of a page.
  announced := earlier + characters + 450 * cardinality(pages);
  -- So much is always free.
  if announced > 13000 then
    -- Bytes. A page of the queue may stay half empty, and others announce at the same moment.
    free := (1 - pg_notification_queue_usage())
      * 8192 * coalesce(current_setting('max_notify_queue_pages', true)::bigint, 1048576);
    if announced > least(free / 4, 4000000) then
      announced := earlier + 450;
      pages := array[''];
      firsts := array[secret.revision + 1];
      old.revision := secret.revision;
      old.stamp := secret.stamp;
      new.revision := secret.revision;
      new.stamp := secret.stamp;
    end if;
    if announced > free / 3 then
      return null;
    end if;
  end if;
  header := concat_ws(' ', new.channel, extract(epoch from pg_postmaster_start_time()),
    old.revision, old.stamp, new.revision, new.stamp, secret.revision);
  for n in 1 .. cardinality(pages) loop
    body := header || ' ' || firsts[n] || pages[n];
    perform pg_notify(secret.name, encode(sha256(
        secret.outer_pad || sha256(secret.inner_pad || convert_to(body, 'UTF8'))), 'hex') || chr(10) || body),
      set_config('pgmembership.announced', pg_current_xact_id() || ' ' || announced, true);
  end loop;
  return null;
end
$$;

create constraint trigger clusters_announce after update of revision on :"schema".clusters
  deferrable initially deferred
  for each row when (old.revision <> new.revision) execute function :"schema".announce();

-- registering -------------------------------------------------------------------------------------

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
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_memoize = off
set jit = off
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

-- data --------------------------------------------------------------------------------------------

-- Data: how a member changes what it carries.
--
-- A registration that has ended keeps its last data: set_data() changes only rows with the token that it is given.
-- It never waits for a row that somebody holds locked.

-- Sets the data of registrations. pending names those that it left alone because somebody holds them locked. It
-- waits only briefly for the cluster: while it waits it has rows locked, which heartbeats then have to skip.
--
-- Returns the position of the cluster at which all of it can be seen, which registrations have changed, and since when
-- they are registered. previous_stamp is the stamp before, and null unless these are all that has changed.
create function :"schema".set_data(
  cluster_name text, ids uuid[], tokens bigint[], contents bytea[],
  out pending uuid[], out changed uuid[], out registered timestamptz[],
  out revision bigint, out stamp uuid, out previous_stamp uuid
)
language plpgsql security definer
set search_path = :"schema", pg_temp
set lock_timeout = '200ms'
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_memoize = off
set jit = off
as $$
#variable_conflict use_column
declare
  held_ids uuid[];
  before bigint;
  head clusters;
  new_contents bytea[];
begin
  if not well_formed(ids, tokens) or cardinality(contents) is distinct from cardinality(ids)
    or array_position(contents, null) is not null then
    raise exception 'ids, tokens and contents must be arrays of one length, without nulls; ids differ, tokens are not negative'
      using errcode = 'invalid_parameter_value';
  end if;
  with held as materialized (
    select m.id, m.registered_at, wanted.data, m.data <> wanted.data as differs
    from unnest(ids, tokens, contents) wanted (id, token, data)
    join members m on m.id = wanted.id and m.token = wanted.token
    where m.cluster is not distinct from cluster_name
    order by m.id for no key update of m skip locked
  )
  select array_agg(h.id), array_agg(h.id) filter (where h.differs), array_agg(h.registered_at) filter (where h.differs),
    array_agg(h.data) filter (where h.differs)
  into held_ids, changed, registered, new_contents
  from held h;
  if changed is not null then
    head := advance(cluster_name, cardinality(changed));
    before := head.revision - cardinality(changed);
    insert into events (cluster, revision, stamp, at, kind, reason, member, token, registered_at, data)
    select cluster_name, before + change.n, head.stamp, greatest(clock_timestamp(), m.registered_at),
      'updated', 'data', m.id, m.token, m.registered_at, change.data
    from unnest(changed, new_contents) with ordinality change (id, data, n) join members m on m.id = change.id;
    update members m set data = change.data, revision = before + change.n
    from unnest(changed, new_contents) with ordinality change (id, data, n)
    where m.id = change.id;
    previous_stamp := head.previous_stamp;
  else
    select * into head from clusters c where c.name = cluster_name;
  end if;
  revision := head.revision;
  stamp := head.stamp;
  if cardinality(held_ids) is distinct from cardinality(ids) then
    select array_agg(m.id) into pending
    from unnest(ids, tokens) wanted (id, token)
    join members m on m.id = wanted.id and m.token = wanted.token
    where m.cluster is not distinct from cluster_name and not coalesce(m.id = any (held_ids), false);
  end if;
end
$$;

-- leaving -----------------------------------------------------------------------------------------

-- Leaving: how rows of members are removed, by their process, by a sweep, or by a newer registration.
--
-- The log says why each one left. Only the registration that is named by id and token is removed, never a newer
-- one of the same member (promises 7 and 8). What an application has attached to members (foreign keys, cascades)
-- can hold back its own member only.

-- Deletes the rows of these registrations, except those that somebody else holds locked, and writes the reason
-- into the log. The triggers always write 'removed', because no setting that others can change may influence
-- the reason. It is corrected while the cluster is still locked. A member that was asked to leave (it has a note) was
-- removed, whoever deletes its row.
--
-- One subtransaction locks and deletes. If a transaction locked a row and its subtransaction deleted it, the row
-- would count as locked by several, and would be slow to read until it is vacuumed.
--
-- The cluster is locked last, by the trigger, when all that is attached to the rows has gone: however long that takes,
-- others join, change and leave meanwhile. So all rows go in one statement.
--
-- Something on the application's side may refuse or be locked (a foreign key). Then each row is tried alone, which is
-- undone, in random order and for one second at most, and those that can go are deleted together. So the obstacle
-- holds back its own member only, and rows that fail do not keep the others waiting for ever.
--
-- Something there may be slow (a cascade through millions of rows), and take longer than the client waits. Then
-- the deletion goes on without the client and commits. If it were cancelled, each sweep would begin it again, and
-- nobody would ever be removed.
--
-- Those of crashed_ids have crashed. Who registers again because of a drain that was taken back after told_since was
-- removed by the operator, though the row does not say so any more.
create function :"schema".remove_members(
  cluster_name text, ids uuid[], tokens bigint[], why text, crashed_ids uuid[] default null,
  told_since timestamptz default null, out removed uuid[], out obstacles text[]
)
language plpgsql
set search_path = :"schema", pg_temp
set enable_seqscan = off -- Cascades find their rows by an index, also if their tables were empty when they were planned.
as $$
declare
  since constant bigint := (select c.revision from clusters c where c.name = cluster_name);
  refused_at timestamptz;
  free_ids uuid[];
  free_tokens bigint[];
  n integer;
begin
  removed := '{}';
  if ids is null then
    return;
  end if;
  perform set_config('client_connection_check_interval', '0', true);
  for attempt in 1 .. 2 loop
    begin
      with gone as (
        delete from members m
        where m.id = any (array(
          select l.id from unnest(ids, tokens) leaver (id, token) join members l on l.id = leaver.id and l.token = leaver.token
          where l.cluster is not distinct from cluster_name
          order by l.id for update of l skip locked
        ))
        returning m.id
      )
      select coalesce(array_agg(g.id), '{}') into removed from gone g;
      exit;
    exception when others then
      if attempt = 2 then
        obstacles := obstacles || format('%s: %s (%s)', array_to_string(ids, ', '), sqlerrm, sqlstate);
        exit;
      end if;
    end;
    refused_at := clock_timestamp();
    for n in select i from generate_subscripts(ids, 1) i order by random() loop
      exit when clock_timestamp() > refused_at + interval '1 second';
      begin
        delete from members m
        where m.id = any (array(
          select l.id from members l
          where l.id = ids[n] and l.token = tokens[n] and l.cluster is not distinct from cluster_name
          for update skip locked
        ));
        raise exception 'undone' using errcode = 'MB000';
      exception
        when sqlstate 'MB000' then
          free_ids := free_ids || ids[n];
          free_tokens := free_tokens || tokens[n];
        when others then
          obstacles := obstacles || format('%s: %s (%s)', ids[n], sqlerrm, sqlstate);
      end;
    end loop;
    exit when free_ids is null;
    ids := free_ids;
    tokens := free_tokens;
  end loop;
  if removed <> '{}' then
    -- Where one process is alone, nobody sweeps, and these would stay.
    delete from held_heartbeats d where d.ctid = any (array(
      select h.ctid from held_heartbeats h where h.member = any (removed) and h.token = any (tokens) for update skip locked
    ));
    update events e set reason = case when e.member = any (crashed_ids) then 'crashed' else why end
    where e.cluster = cluster_name and e.revision > since and e.reason = 'removed' and e.note is null
      and e.member = any (removed) and e.token = any (tokens);
    if told_since is not null then
      update events e set reason = 'removed', by_role = v.by_role, note = v.note
      from evictions v
      where e.cluster = cluster_name and e.revision > since and e.reason = why and e.kind = 'left'
        and e.member = any (removed) and e.token = any (tokens)
        and v.cluster = e.cluster and v.member = e.member and v.token = e.token and v.allowed_at > told_since;
    end if;
  end if;
end
$$;

-- Ends registrations. One that has ended already, or was replaced by a newer one, is left alone. pending names
-- those that are still there because somebody holds them locked or refuses, and obstacles says why. gone names
-- those that it removed. Also returned is the position of the cluster at which that can be seen. previous_stamp is the
-- stamp before, and null unless these are all that has changed.
create function :"schema".deregister_as_owner(
  cluster_name text, ids uuid[], tokens bigint[], out pending uuid[], out obstacles text[],
  out gone uuid[], out revision bigint, out stamp uuid, out previous_stamp uuid
)
language plpgsql security definer
set search_path = :"schema", pg_temp
set lock_timeout = '500ms'
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_memoize = off
set jit = off
as $$
#variable_conflict use_column
declare
  head clusters;
begin
  if not well_formed(ids, tokens) then
    raise exception 'ids and tokens must be arrays of one length, without nulls; ids differ, tokens are not negative'
      using errcode = 'invalid_parameter_value';
  end if;
  select r.removed, r.obstacles into gone, obstacles from remove_members(cluster_name, ids, tokens, 'deregistered') r;
  select * into head from clusters c where c.name = cluster_name;
  revision := head.revision;
  stamp := head.stamp;
  if cardinality(gone) = cardinality(ids) then
    previous_stamp := head.previous_stamp;
    return;
  end if;
  gone := null;
  select array_agg(m.id) into pending
  from unnest(ids, tokens) leaver (id, token)
  join members m on m.id = leaver.id and m.token = leaver.token
  where m.cluster is not distinct from cluster_name;
end
$$;

-- A deferred foreign key would refuse at commit, and undo everything. It is made to refuse immediately, so that only
-- its own member is held back. But this also runs what the caller's transaction has queued, and that must not get
-- the owner's rights (before PostgreSQL 18 it would). So this function, and sweep() in the same way, runs as the
-- caller, and calls the function that runs as the owner. If somebody calls that one directly, a deferred foreign key
-- refuses at commit.
-- What the transaction changed before is announced at this call, and what it changes afterwards at commit.
create function :"schema".deregister(
  cluster_name text, ids uuid[], tokens bigint[], out pending uuid[], out obstacles text[],
  out gone uuid[], out revision bigint, out stamp uuid, out previous_stamp uuid
)
language plpgsql
set search_path = :"schema", pg_temp
as $$
begin
  set constraints all immediate;
  set constraints clusters_announce deferred;
  select d.pending, d.obstacles, d.gone, d.revision, d.stamp, d.previous_stamp
  into pending, obstacles, gone, revision, stamp, previous_stamp
  from deregister_as_owner(cluster_name, ids, tokens) d;
end
$$;

-- evicting ----------------------------------------------------------------------------------------

-- Evicting: how an operator removes a member, and keeps it away.
--
-- evict() removes it at once. drain() asks it to leave: from then on its heartbeats are answered as if it had been
-- removed, so its process ends the lease first and the row then. A process that does not hear of it is silent for the
-- server: its row goes after its ttl. In both cases the log says 'removed', by which role, and the note.
--
-- An eviction is of one id. register() refuses that id until the eviction ends or is taken back by allow(). A process
-- that is started again has new ids, and may register.

create table :"schema".evictions (
  cluster text        not null,
  member  uuid        not null,
  token   bigint,
  at      timestamptz not null default clock_timestamp(),
  by_role text        not null default session_user,
  note    :"schema".event_note not null,
  until   timestamptz,
  allowed_at timestamptz,
  allowed_by text,
  primary key (cluster, member)
);
comment on table :"schema".evictions is
  'Who was evicted or drained, and may not register until then. The last eviction of each member, also when it has ended.';
comment on column :"schema".evictions.token is 'The registration that was there; null: none was.';
comment on column :"schema".evictions.by_role is 'The role that evicted: it had logged in as this.';
comment on column :"schema".evictions.until is
  'When the member may register again; null: when it is allowed to; -infinity: it was allowed.';
comment on column :"schema".evictions.allowed_at is 'When it was allowed; null: it was not.';
comment on column :"schema".evictions.allowed_by is 'The role that allowed it: it had logged in as this.';

-- Notes the eviction, and marks the row of the member, if it has one. Returns its token. The cluster is not locked yet.
create function :"schema".note_eviction(cluster_name text, member_id uuid, why text, stay_away interval) returns bigint
language plpgsql
set search_path = :"schema", pg_temp
as $$
declare
  registration bigint;
begin
  if coalesce(length(why), 0) not between 1 and 1000 then
    raise exception 'the note must have 1 to 1000 characters'
      using errcode = 'invalid_parameter_value', hint = 'It tells others why the member was removed.';
  end if;
  if stay_away <= interval '0' then
    raise exception 'stay_away must be more than 0, not %', stay_away
      using errcode = 'invalid_parameter_value', hint = 'With null the member stays away until it is allowed again.';
  end if;
  if not exists (select from clusters c where c.name = cluster_name) then
    raise exception 'there is no cluster %', cluster_name using errcode = 'no_data_found';
  end if;
  update members m set draining_since = coalesce(m.draining_since, clock_timestamp())
  where m.id = member_id and m.cluster = cluster_name
  returning m.token into registration;
  if not found and not exists (select from events e where e.member = member_id and e.cluster = cluster_name) then
    raise exception 'cluster % has no member %, and its log knows of none', cluster_name, member_id using errcode = 'no_data_found';
  end if;
  insert into evictions (cluster, member, token, note, until)
  values (cluster_name, member_id, registration, why, clock_timestamp() + stay_away)
  on conflict (cluster, member) do update
  set token = excluded.token, at = excluded.at, by_role = excluded.by_role, note = excluded.note,
    until = excluded.until, allowed_at = null, allowed_by = null;
  return registration;
end
$$;

-- Locks the cluster at last, and looks whether an attempt to register came between. Returns its token.
--
-- Attempts to register lock the cluster, and then look for evictions. This locks the cluster, too, and writes its row:
-- so an attempt that is under way is either over, and its row is found here, or it will find the eviction. Even one
-- with an older snapshot (REPEATABLE READ) fails then.
create function :"schema".settle_eviction(cluster_name text, member_id uuid) returns bigint
language plpgsql
set search_path = :"schema", pg_temp
as $$
declare
  registration bigint;
begin
  update clusters c set stamp = c.stamp where c.name = cluster_name;
  update members m set draining_since = coalesce(m.draining_since, clock_timestamp())
  where m.id = member_id and m.cluster = cluster_name
  returning m.token into registration;
  if found then
    update evictions v set token = registration where v.cluster = cluster_name and v.member = member_id;
  end if;
  return registration;
end
$$;

-- Removes a member at once, and keeps it away for this long; null: until it is allowed again. Also if it is not
-- registered at this moment. Returns the token of the registration that was removed; null: there was none.
--
-- It waits for a transaction that holds the member's row (a fence), but only 5 seconds. What the application has
-- attached to members may refuse, or take long. Nobody else in the cluster waits for that. If it fails, nothing has
-- happened, and the error says why.
create function :"schema".evict(cluster_name text, member_id uuid, note text, stay_away interval default null)
returns bigint
language plpgsql security definer
set search_path = :"schema", pg_temp
set timezone = 'UTC' -- Where a day has 24 hours.
set lock_timeout = '5s'
as $$
declare
  registration bigint;
  newer bigint;
begin
  begin
    perform from members m where m.id = member_id and m.cluster = cluster_name for update;
  exception when lock_not_available then
    raise exception 'a transaction holds the row of member %', member_id using errcode = 'lock_not_available',
      hint = 'It may be a fence. Try again when that transaction has ended, or call drain(), which waits for no fence.';
  end;
  registration := note_eviction(cluster_name, member_id, note, stay_away);
  delete from members m where m.id = member_id and m.cluster = cluster_name;
  newer := settle_eviction(cluster_name, member_id);
  if newer is not null then
    delete from members m where m.id = member_id and m.cluster = cluster_name;
  end if;
  return coalesce(newer, registration);
end
$$;

-- Asks a member to leave, and keeps it away like evict(). Its process hears of it with its next heartbeat. Fences go on
-- until the row is gone. Returns the token of the registration that is to end; null: there is none.
create function :"schema".drain(cluster_name text, member_id uuid, note text, stay_away interval default null)
returns bigint
language plpgsql security definer
set search_path = :"schema", pg_temp
set timezone = 'UTC' -- Where a day has 24 hours.
set lock_timeout = '5s'
as $$
begin
  perform note_eviction(cluster_name, member_id, note, stay_away);
  return settle_eviction(cluster_name, member_id);
end
$$;

-- Takes back what evict() or drain() said, and notes by whom. Returns false if there was nothing to take back. A process
-- that was kept away registers again within a heartbeat; one that was asked to leave and has not heard of it stays.
create function :"schema".allow(cluster_name text, member_id uuid) returns boolean
language plpgsql security definer
set search_path = :"schema", pg_temp
set lock_timeout = '5s'
as $$
begin
  update members m set draining_since = null
  where m.id = member_id and m.cluster = cluster_name and m.draining_since is not null;
  update evictions v set until = '-infinity', allowed_at = clock_timestamp(), allowed_by = session_user
  where v.cluster = cluster_name and v.member = member_id and v.allowed_at is null;
  return found;
end
$$;

-- heartbeats --------------------------------------------------------------------------------------

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
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_memoize = off
set jit = off
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

-- crashes -----------------------------------------------------------------------------------------

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

-- sweeping ----------------------------------------------------------------------------------------

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
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_memoize = off
set jit = off
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
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_memoize = off
set jit = off
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

-- retention ---------------------------------------------------------------------------------------

-- Retention: how much of the log is kept.
--
-- Trimming changes no answer about the time that is kept: of each registration it keeps the event that says what the
-- member carried when that time begins. A reader whose events were trimmed reads all members instead, and a change
-- feed whose position was trimmed is told so. The present is never trimmed.
--
-- The log is also a memory: register() looks there for departures since an attempt began, which is at most 10 seconds ago.
-- So a departure is kept for 20 seconds, whatever the owner says. (One that seems to be in the future was written before
-- the clock went back, and register() does not count it.)
--
-- Evictions are trimmed like events, when they have ended and the registration that they ended has gone.
--
-- The owner trims by hand, with trim_events(), or sets a retention, which sweeps keep bit by bit.

-- One row: the retention of all clusters of this schema. No row: nothing is trimmed but by hand.
create table :"schema".retention (
  one     boolean primary key default true check (one),
  age     interval,
  changes bigint
);
comment on column :"schema".retention.age is 'Older events may be trimmed; null: their age does not matter.';
comment on column :"schema".retention.changes is
  'All but this many of the newest changes of each cluster may be trimmed; null: their number does not matter.';

-- Deletes events that are older than older_than, except those that say what a member carried at that time. Returns how
-- many it deleted.
create function :"schema".trim_events(older_than interval) returns bigint
language plpgsql
set search_path = :"schema", pg_temp
set lock_timeout = '5s'
set timezone = 'UTC' -- Where a day has 24 hours.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_memoize = off
set jit = off
as $$
declare
  moment constant timestamptz := clock_timestamp();
  cutoff constant timestamptz := moment - older_than;
  trimmed bigint;
begin
  if coalesce(cutoff > moment, true) then
    raise exception 'older_than must not be negative or null' using errcode = 'invalid_parameter_value',
      hint = 'Say how much of the past to keep, for example trim_events(''90 days'').';
  end if;
  delete from events e
  where e.at < cutoff and (e.kind = 'left' and e.at < moment - interval '20 seconds' or exists (
    -- By the index of the member's events, also where the log was empty when this was planned: hence the row comparison,
    -- and the `|| ''`.
    select from events later
    where later.member = e.member and (later.member, later.at) >= (e.member, e.at) and later.at < cutoff
      and later.token = e.token and later.cluster || '' = e.cluster and later.revision > e.revision
  ));
  get diagnostics trimmed = row_count;
  delete from evictions v
  where coalesce(v.allowed_at, v.until) < cutoff
    and not exists (select from members m where m.id = v.member and m.token = v.token);
  return trimmed;
end
$$;

-- Sets the retention of this schema: how old an event may get, and how many changes of each cluster are kept. null: no
-- bound; two nulls: no retention. Sweeps begin to keep it immediately: at least within a minute, where a sweep is under
-- way, since this waits for none.
create function :"schema".set_retention(age interval, changes bigint) returns void
language plpgsql
set search_path = :"schema", pg_temp
set timezone = 'UTC' -- Where a day has 24 hours.
set lock_timeout = '5s'
as $$
declare
  moment constant timestamptz := clock_timestamp();
begin
  if age <= interval '0' or moment - age > moment or changes <= 0 then
    raise exception 'age and changes must be more than 0' using errcode = 'invalid_parameter_value',
      hint = 'For example set_retention(''90 days'', null). With null there is no bound.';
  end if;
  -- Not deleted and inserted anew: of two owners at the same time, the second would fail.
  if age is not null or changes is not null then
    insert into retention as r (age, changes) values (set_retention.age, set_retention.changes)
    on conflict (one) do update set age = excluded.age, changes = excluded.changes;
  else
    delete from retention;
  end if;
  update sweeps s set trim_at = (select moment from retention)
  where s.ctid = any (array(select due.ctid from sweeps due for update skip locked));
end
$$;

-- Trims the log of a cluster as far as the retention says: up to 2000 changes at each sweep, and when there are no more,
-- it looks again after a minute. It waits for nobody, and nobody who writes waits for it: only the owner changes old
-- events, and what he has locked is left to him.
--
-- An event from the future was written while the clock was ahead. It is old if one that came after it is old: otherwise
-- nothing would be trimmed until that time comes.
--
-- It goes through the log once, in the order of revisions. An event ends the need for those before it that are of the
-- same registration, and a 'left' event also for itself.
create function :"schema".keep_retention(swept :"schema".sweeps) returns void
language plpgsql
set search_path = :"schema", pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_memoize = off
set jit = off
as $$
declare
  page constant bigint := 2000;
  moment constant timestamptz := clock_timestamp();
  -- With months in it, an age can be a little less than nothing.
  cutoff constant timestamptz := (
    select least(moment - r.age, moment) from retention r where r.age is not null
  );
  surplus constant bigint := (
    select c.revision - r.changes from clusters c, retention r where c.name = swept.cluster
  );
  -- The last change of which time says that it is old.
  old_to constant bigint := (
    select e.revision from events e where e.cluster = swept.cluster and e.at < cutoff order by e.at desc, e.revision desc limit 1
  );
  looked_at bigint;
  last bigint;
  first_kept bigint;
begin
  select count(*), max(e.revision), min(e.revision) filter (
    where not coalesce(e.at < cutoff or e.at > moment and e.revision < old_to, false) and not coalesce(e.revision <= surplus, false)
      or e.kind = 'left' and e.at between moment - interval '20 seconds' and moment
  )
  into looked_at, last, first_kept
  from (
    select e.revision, e.at, e.kind from events e
    where e.cluster = swept.cluster and e.revision > swept.trimmed_to
    order by e.revision limit page
  ) e;
  last := coalesce(first_kept - 1, last, swept.trimmed_to);
  delete from events e where e.ctid = any (array(
    select old.ctid
    from (
      select distinct on (e.member, e.token) e.member, e.token, e.revision, e.kind,
        max(e.at) over (partition by e.member, e.token) as at -- The time of the last may be before those of others.
      from events e
      where e.cluster = swept.cluster and e.revision > swept.trimmed_to and e.revision <= last
      order by e.member, e.token, e.revision desc
    ) newest
    -- By the index of a member's events: schema.sql says why it is written like this.
    join events old on old.member = newest.member and (old.member, old.at) <= (newest.member, newest.at)
      and old.token = newest.token and old.cluster || '' = swept.cluster
      and (old.revision < newest.revision or newest.kind = 'left' and old.revision = newest.revision)
    for update of old skip locked
  ));
  delete from evictions v where v.ctid = any (array(
    select done.ctid from evictions done
    where done.cluster = swept.cluster and coalesce(done.allowed_at, done.until) < least(moment, coalesce(
        (select e.at from events e where e.cluster = swept.cluster and e.revision > last order by e.revision limit 1), cutoff
      ))
      and not exists (select from members m where m.id = done.member and m.token = done.token)
    for update skip locked
  ));
  update sweeps s set
    trimmed_to = last,
    trim_at = case when looked_at = page and first_kept is null then moment else moment + interval '1 minute' end
  where s.cluster = swept.cluster and s.swept_at = swept.swept_at;
end
$$;

-- fence -------------------------------------------------------------------------------------------

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

-- audit -------------------------------------------------------------------------------------------

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
  '{1 s, 5 s, 30 s, 2 min, 10 min, 1 h, 6 h, 24 h, 168 h, 720 h, 8760 h, 87600 h}'::interval[]), at, registered_at)
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
    '{1 s, 5 s, 30 s, 2 min, 10 min, 1 h, 6 h, 24 h, 168 h, 720 h, 8760 h, 87600 h}'::interval[] || null::interval
  ) with ordinality class (longest, n)
  cross join lateral (
    select * from events e
    where e.cluster = cluster_name and e.kind = 'left'
      and width_bucket(e.at - e.registered_at,
        '{1 s, 5 s, 30 s, 2 min, 10 min, 1 h, 6 h, 24 h, 168 h, 720 h, 8760 h, 87600 h}'::interval[]) = class.n - 1
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

-- claims ------------------------------------------------------------------------------------------

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
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_memoize = off
set jit = off
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
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_memoize = off
set jit = off
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
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_memoize = off
set jit = off
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

-- nonces ------------------------------------------------------------------------------------------

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
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_memoize = off
set jit = off
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
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_memoize = off
set jit = off
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
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_memoize = off
set jit = off
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
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_memoize = off
set jit = off
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

-- upkeep ------------------------------------------------------------------------------------------

-- Upkeep: what the owner of the schema does now and then. No other role is granted these functions.
--
-- A cluster is forgotten only when it has no members.

-- Gives the announcements of a cluster a new name and key. A former member, or somebody who has seen the name of
-- the channel, hears nothing from here on. The next heartbeat, or poll, of a member tells it to ask for the new ones.
create function :"schema".renew_members_channel(cluster_name text) returns void
language sql
set search_path = :"schema", pg_temp
set lock_timeout = '5s'
as $$
  update members_channels c
  set name = made.name, key = made.key, inner_pad = made.inner_pad, outer_pad = made.outer_pad, made_in = made.made_in
  from new_members_channel(cluster_name) made where c.cluster = cluster_name;
  -- The cluster last: nobody waits while it is locked.
  update clusters c set channel_stamp = gen_random_uuid() where c.name = cluster_name
$$;

-- Forgets a cluster that nobody uses any more, its log and its nonces included. Refused while it has members, and, unless
-- the caller says so, while it knows of values that were used: without that, they could be used again (promise 19).
create function :"schema".drop_cluster(cluster_name text, forget_used_nonces boolean default false) returns void
language plpgsql
set search_path = :"schema", pg_temp
set lock_timeout = '5s'
as $$
begin
  perform from clusters c where c.name = cluster_name for update;
  if exists (select from members m where m.cluster = cluster_name) then
    raise exception 'cluster % has members', cluster_name
      using errcode = 'object_in_use', hint = 'It can be dropped when they have left.';
  end if;
  if forget_used_nonces is not true and exists (
    select from nonces n where n.cluster = cluster_name and n.used_at is not null
  ) then
    raise exception 'cluster % has used nonces, which would be forgotten', cluster_name
      using errcode = 'object_in_use',
        hint = 'Where such a value is stocked again, it is used a second time. If that cannot be: drop_cluster(name, true).';
  end if;
  delete from held_heartbeats h where h.cluster = cluster_name;
  delete from sweeps s where s.cluster = cluster_name;
  delete from members_channels c where c.cluster = cluster_name;
  delete from evictions v where v.cluster = cluster_name;
  delete from nonces n where n.cluster = cluster_name;
  delete from events e where e.cluster = cluster_name;
  delete from clusters c where c.name = cluster_name;
end
$$;

-- access ------------------------------------------------------------------------------------------

-- Access: only grants decide who may read and who may call (promise 15). This comes last, for all that is above.

-- Some hosts switch row level security on by themselves. Without a policy, each query of a reader would then find
-- nothing, without an error. A policy goes when its table goes: there is nothing to undo.
create policy by_grants_alone on :"schema".clusters using (true) with check (true);
create policy by_grants_alone on :"schema".members using (true) with check (true);
create policy by_grants_alone on :"schema".events using (true) with check (true);
create policy by_grants_alone on :"schema".sweeps using (true) with check (true);
create policy by_grants_alone on :"schema".held_heartbeats using (true) with check (true);
create policy by_grants_alone on :"schema".evictions using (true) with check (true);
create policy by_grants_alone on :"schema".retention using (true) with check (true);
create policy by_grants_alone on :"schema".members_channels using (true) with check (true);
create policy by_grants_alone on :"schema".claims using (true) with check (true);
create policy by_grants_alone on :"schema".nonces using (true) with check (true);

-- PostgreSQL lets everybody execute a new function, and use a new domain. Default privileges (alter default privileges),
-- an everyday setting, may have given anything else to anybody. So all that is made is taken back from everybody but
-- the owner. What roles of applications need is granted afterwards, by grants/reader.sql, grants/member.sql and
-- grants/operator.sql. A later migration does this for what it makes, and for nothing else.
set pgmembership.schema = :"schema";
do $access$
declare
  path constant pg_catalog.text := pg_catalog.current_setting('search_path');
  given pg_catalog.record;
begin
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  for given in
    select distinct o.kind, o.name, case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as grantee
    from pg_namespace n cross join lateral (
      select case relkind when 'S' then 'sequence' else 'table' end as kind, oid::regclass::text as name,
        relowner as owner, relacl as acl
      from pg_class where relnamespace = n.oid and relkind in ('r', 'v', 'S')
      union all
      select 'routine', oid::regprocedure::text, proowner, coalesce(proacl, acldefault('f', proowner))
      from pg_proc where pronamespace = n.oid
      union all
      select 'type', oid::regtype::text, typowner, coalesce(typacl, acldefault('T', typowner))
      from pg_type where typnamespace = n.oid and typtype = 'd'
    ) o cross join lateral aclexplode(o.acl) a
    where n.nspname = current_setting('pgmembership.schema') and a.grantee <> o.owner
  loop
    execute format('revoke all on %s %s from %s cascade', given.kind, given.name, given.grantee);
  end loop;
  perform set_config('search_path', path, true);
end
$access$;
reset pgmembership.schema;

do $$ begin
  perform pg_catalog.set_config('search_path', pg_catalog.current_setting('pgmembership.path'), coalesce(
    pg_catalog.current_setting('pgmembership.transaction', true)
      operator(pg_catalog.=) pg_catalog.pg_current_xact_id()::pg_catalog.text, false));
end $$;
