package node

// Follows reports whether the table tells of all connections of a namespace.
func (s *Source) Follows(inode uint32) bool { return s.follows(s.namespace(inode)) }
