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
:planner_settings
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

-- ==== down

drop function :"schema".set_data(text, uuid[], bigint[], bytea[]);

-- ==== grants: member

grant execute on function :"schema".set_data(text, uuid[], bigint[], bytea[]) to :"role";
