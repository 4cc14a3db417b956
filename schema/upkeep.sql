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

-- ==== down

drop function :"schema".drop_cluster(text, boolean);
drop function :"schema".renew_members_channel(text);
