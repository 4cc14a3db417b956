-- Assembled from schema/ by `npm run schema`: change it there, not here.

-- An operator may do all that a reader may, and remove members. It cannot register or rewrite anything.
-- psql -v schema=pgmembership -v role=ops -f operator.sql   (after reader.sql for the same role)

grant execute on function
  :"schema".evict(text, uuid, text, interval), :"schema".drain(text, uuid, text, interval),
  :"schema".allow(text, uuid) to :"role";
