"""From reports to what people and programs read: documents, tables, the dashboard.

Nothing here asks a server or reads an inventory: it gets values of `core` and gives text. No module of
it imports rich: a status table needs columns, sixteen colours and the width of characters, which is less
code than the 40 ms that the import costs on every call.
"""
