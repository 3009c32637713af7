from proxy.plugins.guestcall import Maker

GuestCall: Maker
