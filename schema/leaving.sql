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
:planner_settings
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

-- ==== down

drop function :"schema".deregister(text, uuid[], bigint[]);
drop function :"schema".deregister_as_owner(text, uuid[], bigint[]);
drop function :"schema".remove_members(text, uuid[], bigint[], text, uuid[], timestamptz);

-- ==== grants: member

grant execute on function
  :"schema".deregister(text, uuid[], bigint[]), :"schema".deregister_as_owner(text, uuid[], bigint[]) to :"role";
