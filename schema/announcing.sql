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
:planner_settings
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

-- ==== down

drop trigger clusters_announce on :"schema".clusters;
drop function :"schema".announce();
drop function :"schema".members_channel(text);
drop function :"schema".new_members_channel(text);
drop table :"schema".members_channels;
drop function :"schema".members_channels_refused();
drop function :"schema".database_identity();
drop function :"schema".channel(text);

-- ==== grants: reader

grant execute on function :"schema".channel(text) to :"role";

-- ==== grants: member

grant execute on function :"schema".members_channel(text) to :"role";
