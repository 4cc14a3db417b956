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

-- Takes back all that 0001_membership.up.sql made, except the schema itself.

drop function :"schema".drop_cluster(text, boolean);
drop function :"schema".renew_members_channel(text);
drop view :"schema".nonces_now;
drop function :"schema".return_nonces(text, text, uuid, bigint, text[], uuid[], uuid[]);
drop function :"schema".use_nonce(text, text, uuid, bigint, uuid, text);
drop function :"schema".take_nonces(text, text, uuid, bigint, uuid, uuid[], integer);
drop function :"schema".stock_nonces(text, text, text[]);
drop table :"schema".nonces;
drop function :"schema".nonces_refused();
drop view :"schema".claims_now;
drop function :"schema".fence_claims(text, text, uuid, bigint, text[]);
drop function :"schema".release(text, text, uuid, bigint, text[]);
drop function :"schema".claim(text, text, uuid, bigint, text[]);
drop function :"schema".nameable(text[]);
drop table :"schema".claims;
drop domain :"schema".claim_space;
drop domain :"schema".layer_name;
drop function :"schema".members_at(text, timestamptz);
drop function :"schema".stays_between(text, timestamptz, timestamptz, bigint);
drop function :"schema".stays_at(text, timestamptz);
drop index :"schema".events_by_length;
drop view :"schema".changes;
drop view :"schema".stays;
drop function :"schema".data_at(text, uuid, bigint, timestamptz);
drop view :"schema".members_now;
drop function :"schema".readable(bytea);
drop function :"schema".fence_obstacles(text, timestamptz);
drop function :"schema".kept_past_ttl(text, timestamptz);
drop function :"schema".fence(uuid, text);
drop function :"schema".fence(text, bigint);
drop function :"schema".fence(text, text);
drop function :"schema".fence(uuid, bigint);
drop function :"schema".keep_current(uuid, bigint, boolean);
drop function :"schema".keep_retention(:"schema".sweeps);
drop function :"schema".set_retention(interval, bigint);
drop function :"schema".trim_events(interval);
drop table :"schema".retention;
drop function :"schema".sweep_idle(text[]);
drop function :"schema".sweep(text);
drop function :"schema".sweep_as_owner(text);
drop function :"schema".sweep_overdue(text);
drop function :"schema".open_sweeps(:"schema".sweeps);
drop function :"schema".watch(text);
drop table :"schema".sweeps;
drop function :"schema".suspect(text, timestamptz);
drop function :"schema".claimed_role(text);
drop function :"schema".claimed_session(text, integer);
drop function :"schema".heartbeat(text, uuid[], bigint[], text, integer);
drop function :"schema".heard_at(uuid, bigint, timestamptz);
drop table :"schema".held_heartbeats;
drop function :"schema".allow(text, uuid);
drop function :"schema".drain(text, uuid, text, interval);
drop function :"schema".evict(text, uuid, text, interval);
drop function :"schema".settle_eviction(text, uuid);
drop function :"schema".note_eviction(text, uuid, text, interval);
drop table :"schema".evictions;
drop function :"schema".deregister(text, uuid[], bigint[]);
drop function :"schema".deregister_as_owner(text, uuid[], bigint[]);
drop function :"schema".remove_members(text, uuid[], bigint[], text, uuid[], timestamptz);
drop function :"schema".set_data(text, uuid[], bigint[], bytea[]);
drop function :"schema".register(text, uuid[], bytea[], bigint[], interval, interval, text, integer, timestamptz);
drop function :"schema".register_as_owner(
  text, uuid[], bytea[], bigint[], interval, interval, text, integer, timestamptz, boolean);
drop trigger clusters_announce on :"schema".clusters;
drop function :"schema".announce();
drop function :"schema".members_channel(text);
drop function :"schema".new_members_channel(text);
drop table :"schema".members_channels;
drop function :"schema".members_channels_refused();
drop function :"schema".database_identity();
drop function :"schema".channel(text);
drop table :"schema".members;
drop function :"schema".members_refused();
drop function :"schema".members_changed();
drop function :"schema".members_deleted();
drop function :"schema".members_inserted();
drop function :"schema".well_formed(uuid[], bigint[]);
drop domain :"schema".member_crash_grace;
drop domain :"schema".member_ttl;
drop domain :"schema".member_data;
drop function :"schema".advance(text, bigint, bigint);
drop table :"schema".events;
drop function :"schema".events_refused();
drop table :"schema".clusters;
drop function :"schema".clusters_named();
drop function :"schema".clusters_refused();
drop domain :"schema".event_note;
drop domain :"schema".event_reason;
drop domain :"schema".event_kind;
drop function :"schema".schema_version();

do $$ begin
  perform pg_catalog.set_config('search_path', pg_catalog.current_setting('pgmembership.path'), coalesce(
    pg_catalog.current_setting('pgmembership.transaction', true)
      operator(pg_catalog.=) pg_catalog.pg_current_xact_id()::pg_catalog.text, false));
end $$;
