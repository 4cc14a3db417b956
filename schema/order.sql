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

-- ==== down

drop function :"schema".advance(text, bigint, bigint);
drop table :"schema".events;
drop function :"schema".events_refused();
drop table :"schema".clusters;
drop function :"schema".clusters_named();
drop function :"schema".clusters_refused();
drop domain :"schema".event_note;
drop domain :"schema".event_reason;
drop domain :"schema".event_kind;

-- ==== grants: reader

grant select on :"schema".clusters, :"schema".events to :"role";
