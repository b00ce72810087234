-- outboxd: number_plan
-- Writes down how national numbers are read, for functions in SQL. The daemon that starts last has its way.
-- $1 country text, $2 trunk text
UPDATE outboxd.number_plan AS p
SET country = $1,
    trunk = $2
WHERE (p.country, p.trunk) IS DISTINCT FROM ($1, $2)
