package cloud

import "time"

// TagStalled says why a running instance stands still though nobody stopped it, such as for lack of room on its server. The cloud sets it, and
// takes it away when the instance goes on.
const TagStalled = "aws:nacre:stalled"

// Stall notes why an instance stands still, "" that it goes on, and tells whether that is new.
func (i *Instance) Stall(why string, now time.Time) bool {
	if why == "" {
		if i.Stalled.IsZero() {
			return false
		}
		delete(i.Tags, TagStalled)
		i.Stalled = time.Time{}
		return true
	}
	if !i.Stalled.IsZero() {
		return false
	}
	if i.Tags == nil {
		i.Tags = Tags{}
	}
	i.Tags[TagStalled] = tagText(why)
	i.Stalled = now
	return true
}
