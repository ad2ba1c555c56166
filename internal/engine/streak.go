package engine

// failureStreak is a time in which something fails. It is over after several successes,
// so that what fails now and then is said once.
type failureStreak struct {
	on   bool
	bad  int // failures in it
	good int // successes since the last failure
}

// overAfter is how many successes end a streak.
const overAfter = 3

// note takes in one more try, and reports whether a streak began or is over.
func (s *failureStreak) note(failed bool) (began, over bool) {
	if failed {
		began = !s.on
		s.on, s.good = true, 0
		s.bad++
		return began, false
	}
	s.good++
	over = s.on && s.good == overAfter
	if over {
		s.on, s.bad = false, 0
	}
	return false, over
}
