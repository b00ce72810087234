-- outboxd: wave_tombstone
-- Settles a wave whose commit is in doubt: waits for it if it is still under way, and keeps it from coming later.
-- $1 epoch bigint, $2 seq bigint, $3 gateway text, $4 nonce text
-- Locks: waits for the transaction that inserts the same key. The row stays until the next takeover.
-- Called by dispatch; nothing of the wave was sent.
INSERT INTO outboxd.wave (epoch, seq, gateway, nonce, ids, attempts, rows_made)
VALUES ($1, $2, $3, $4, '{}', '{}', '{}')
ON CONFLICT (epoch, seq) DO UPDATE SET ids = '{}', attempts = '{}', rows_made = '{}'
