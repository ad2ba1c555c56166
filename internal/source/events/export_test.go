package events

// Forget takes a socket out of the table, as if an event had been lost.
func (t *Table) Forget(cookie uint64) error {
	return t.programs.use(func(fds *descriptors) error { return remove(fds.entries, &cookie) })
}
