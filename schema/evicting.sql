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

-- ==== down

drop function :"schema".allow(text, uuid);
drop function :"schema".drain(text, uuid, text, interval);
drop function :"schema".evict(text, uuid, text, interval);
drop function :"schema".settle_eviction(text, uuid);
drop function :"schema".note_eviction(text, uuid, text, interval);
drop table :"schema".evictions;

-- ==== grants: reader

grant select on :"schema".evictions to :"role";

-- ==== grants: operator

-- An operator may do all that a reader may, and remove members. It cannot register or rewrite anything.
-- psql -v schema=pgmembership -v role=ops -f operator.sql   (after reader.sql for the same role)

grant execute on function
  :"schema".evict(text, uuid, text, interval), :"schema".drain(text, uuid, text, interval),
  :"schema".allow(text, uuid) to :"role";
