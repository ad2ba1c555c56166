package events

// Forget takes a socket out of the table, as if an event had been lost.
func (t *Table) Forget(cookie uint64) error {
	return t.programs.use(func(fds *descriptors) error { return remove(fds.entries, &cookie) })
}

// OwnersAtOnce is Owners by one pass, even for more inodes than that has room for.
func (p *Programs) OwnersAtOnce(inodes []uint32) error { return p.ask(inodes, func(*Owner) {}) }
